// SPDX-License-Identifier: MIT
//
// Small text helpers: the rule for names that users choose, quoting for messages, joining, and clipping of
// foreign text before it goes into a log line or an error.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace volchain {

/// Longest name of a pool, disk, VM or snapshot, in bytes of UTF-8.
inline constexpr std::size_t max_name_bytes = 128;

/// Throws InvalidArgument unless `name` may be the name of a `what` ("snapshot"): 1 to max_name_bytes bytes
/// of valid UTF-8 without control characters or '/', not beginning or ending with a space.
void check_name(std::string_view what, std::string_view name);
/// Whether it may.
[[nodiscard]] bool valid_name(std::string_view name);

[[nodiscard]] bool valid_utf8(std::string_view text) noexcept;

/// 'text' in single quotes, control characters made visible, clipped: for user and foreign strings in
/// messages.
[[nodiscard]] std::string quote(std::string_view text);

/// At most `limit` bytes of `text`, cut between characters, with "..." where something is missing.
[[nodiscard]] std::string clipped(std::string_view text, std::size_t limit = 200);

[[nodiscard]] std::string joined(const std::vector<std::string>& items, std::string_view separator);

/// RFC 4648, with padding.
[[nodiscard]] std::string base64(std::string_view bytes);
/// The bytes of that; none where it is not base64.
[[nodiscard]] std::optional<std::string> from_base64(std::string_view text);

/// "name" with everything but letters, digits, '.', '_' and '-' turned into '_', at most `limit` bytes: safe
/// as a part of a file name. Never empty, never beginning with '.' or '-'.
[[nodiscard]] std::string file_name_part(std::string_view name, std::size_t limit = 64);

}  // namespace volchain
