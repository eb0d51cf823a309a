// SPDX-License-Identifier: MIT
//
// Files the careful way: opened beneath a directory without following links, read and written whole, replaced
// atomically. All calls block; the callers run them where blocking is allowed. Failures are thrown as Error
// with the path in the text.
#pragma once

#include <fcntl.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/unique_fd.h"

namespace volchain {

/// openat2(2) with RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS and RESOLVE_NO_MAGICLINKS: `path` is relative to
/// `directory`, may not leave it and may not contain a symbolic link (UnsafeImage where it does). O_CLOEXEC
/// is added. Non-regular files do not block the open (O_NONBLOCK is added), they are the caller's to refuse.
[[nodiscard]] UniqueFd open_beneath(int directory, const std::string& path, int flags, mode_t mode = 0);

/// A directory for the *at() calls.
[[nodiscard]] UniqueFd open_directory(const std::string& path);

/// The whole of a file, which must not be longer than `limit` bytes.
[[nodiscard]] std::string read_file(const std::string& path, std::size_t limit);

/// Reads until `buffer` is full or the file ends; the number of bytes read.
[[nodiscard]] std::size_t read_at(int fd, std::span<std::byte> buffer, std::uint64_t offset);
void write_at(int fd, std::span<const std::byte> data, std::uint64_t offset);

/// fsync(2). On a directory: makes the entries in it durable.
void sync(int fd, std::string_view what);

/// Unlinks a file beneath `directory` and makes that durable; false where it is not there.
bool remove_file(int directory, const std::string& path);

/// Renames a file in `directory` to a name that no file has; AlreadyExists where one has. Also where the file system knows no
/// such rename (NFS): the file has both names for a moment then, or, where it knows no links either, nobody else may give names
/// meanwhile. The caller makes it durable.
void rename_to_new(int directory, const std::string& from, const std::string& to);

/// Puts `content` under `name` in `directory`: readers see the old file or the new one, also after a power
/// cut.
void replace_file(int directory, const std::string& name, std::string_view content, mode_t mode);

}  // namespace volchain
