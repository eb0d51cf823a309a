// SPDX-License-Identifier: MIT
#include "base/file.h"

#include <fmt/format.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <utility>

#include "base/error.h"
#include "base/text.h"

namespace volchain {

UniqueFd open_beneath(int directory, const std::string& path, int flags, mode_t mode) {
    open_how how{};
    how.flags = static_cast<std::uint64_t>(flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    how.mode = mode;
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
    const long fd = ::syscall(SYS_openat2, directory, path.c_str(), &how, sizeof how);
    if (fd < 0) throw system_error(errno, fmt::format("cannot open {}", quote(path)));
    return UniqueFd(static_cast<int>(fd));
}

UniqueFd open_directory(const std::string& path) {
    UniqueFd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!fd) throw system_error(errno, fmt::format("cannot open directory {}", quote(path)));
    return fd;
}

std::string read_file(const std::string& path, std::size_t limit) {
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd) throw system_error(errno, fmt::format("cannot open {}", quote(path)));
    std::string content;
    char buffer[16384];
    while (true) {
        const ssize_t got = ::read(fd.get(), buffer, sizeof buffer);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) throw system_error(errno, fmt::format("cannot read {}", quote(path)));
        if (got == 0) return content;
        content.append(buffer, static_cast<std::size_t>(got));
        if (content.size() > limit)
            throw Error(ErrorCode::invalid_argument, "{} is longer than {} bytes", quote(path), limit);
    }
}

std::size_t read_at(int fd, std::span<std::byte> buffer, std::uint64_t offset) {
    std::size_t done = 0;
    while (done < buffer.size()) {
        const ssize_t got =
            ::pread(fd, buffer.data() + done, buffer.size() - done, static_cast<off_t>(offset + done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) throw system_error(errno, "cannot read");
        if (got == 0) break;
        done += static_cast<std::size_t>(got);
    }
    return done;
}

void write_at(int fd, std::span<const std::byte> data, std::uint64_t offset) {
    std::size_t done = 0;
    while (done < data.size()) {
        const ssize_t put =
            ::pwrite(fd, data.data() + done, data.size() - done, static_cast<off_t>(offset + done));
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) throw system_error(errno, "cannot write");
        done += static_cast<std::size_t>(put);
    }
}

void sync(int fd, std::string_view what) {
    if (::fsync(fd) < 0) throw system_error(errno, fmt::format("cannot flush {}", what));
}

bool remove_file(int directory, const std::string& path) {
    const std::string parent = std::filesystem::path(path).parent_path().string();
    const UniqueFd entries = open_beneath(directory, parent.empty() ? "." : parent, O_RDONLY | O_DIRECTORY);
    const std::string name = std::filesystem::path(path).filename().string();
    // A read-only file system says so before it looks whether there is anything to remove.
    if (::faccessat(entries.get(), name.c_str(), F_OK, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT)
        return false;
    if (::unlinkat(entries.get(), name.c_str(), 0) < 0) {
        if (errno == ENOENT) return false;
        throw system_error(errno, "cannot remove " + quote(path));
    }
    sync(entries.get(), "the directory of " + quote(path));
    return true;
}

namespace {

/// Of an earlier try that did not come to its end.
bool same_file(int directory, const std::string& one, const std::string& other) {
    struct stat first {};
    struct stat second {};
    const int kept = errno;
    const bool seen = ::fstatat(directory, one.c_str(), &first, AT_SYMLINK_NOFOLLOW) == 0 &&
                      ::fstatat(directory, other.c_str(), &second, AT_SYMLINK_NOFOLLOW) == 0;
    errno = kept;
    return seen && first.st_dev == second.st_dev && first.st_ino == second.st_ino;
}

}  // namespace

void rename_to_new(int directory, const std::string& from, const std::string& to) {
    const auto fail = [&] {
        throw system_error(errno, fmt::format("cannot rename {} to {}", quote(from), quote(to)));
    };
    if (::renameat2(directory, from.c_str(), directory, to.c_str(), RENAME_NOREPLACE) == 0) return;
    if (errno != EINVAL && errno != ENOSYS && errno != EOPNOTSUPP) fail();
    if (::linkat(directory, from.c_str(), directory, to.c_str(), 0) == 0) {
        if (::unlinkat(directory, from.c_str(), 0) < 0) fail();
        return;
    }
    if (errno == EEXIST && same_file(directory, from, to)) {
        if (::unlinkat(directory, from.c_str(), 0) < 0) fail();
        return;
    }
    if (errno != EPERM && errno != ENOSYS && errno != EOPNOTSUPP) fail();
    struct stat status {};
    const bool free = ::fstatat(directory, to.c_str(), &status, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT;
    if (!free) errno = EEXIST;
    if (!free || ::renameat(directory, from.c_str(), directory, to.c_str()) < 0) fail();
}

void replace_file(int directory, const std::string& name, std::string_view content, mode_t mode) {
    const std::string temporary = fmt::format(".{}.new", name);
    // A leftover of a crash in here may stand in the way; nothing else ever uses this name.
    (void)::unlinkat(directory, temporary.c_str(), 0);
    const UniqueFd fd = open_beneath(directory, temporary, O_WRONLY | O_CREAT | O_EXCL, mode);
    try {
        write_at(fd.get(), std::as_bytes(std::span(content)), 0);
        sync(fd.get(), temporary);
        if (::renameat(directory, temporary.c_str(), directory, name.c_str()) < 0)
            throw system_error(errno, fmt::format("cannot rename {} to {}", quote(temporary), quote(name)));
    } catch (...) {
        (void)::unlinkat(directory, temporary.c_str(), 0);
        throw;
    }
    sync(directory, fmt::format("the directory of {}", quote(name)));
}

}  // namespace volchain
