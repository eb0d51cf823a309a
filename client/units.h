// SPDX-License-Identifier: MIT
//
// Sizes, durations and times as people write and read them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace volchain::client {

/// "4096", "512M", "10G", "1TiB": bytes; the units are powers of 1024. Throws UsageError.
[[nodiscard]] std::uint64_t parse_size(std::string_view text);
/// "5s", "2m", "1h30m", "500ms": microseconds. A number without a unit is refused. Throws UsageError.
[[nodiscard]] std::uint64_t parse_duration(std::string_view text);

/// "512B", "64M", "1.2G": one decimal where it is not whole.
[[nodiscard]] std::string format_size(std::uint64_t bytes);
/// "850us", "2.3ms", "4.2s", "3m 20s", "5h 12m", "3d 4h".
[[nodiscard]] std::string format_duration(std::uint64_t usec);
/// "2026-03-29 14:00:00", in the local time zone.
[[nodiscard]] std::string format_time(std::uint64_t usec);

}  // namespace volchain::client
