// SPDX-License-Identifier: MIT
#include "storage/vms/nvram.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <span>

#include "base/file.h"
#include "base/text.h"
#include "qcow2/identify.h"
#include "storage/images/file_access.h"

namespace volchain::storage {
namespace {

namespace fs = std::filesystem;

/// A store that a guest writes to is read until it was twice the same.
constexpr int most_readings = 10;

/// Opened beneath the root directory: no link on the way is followed.
UniqueFd open_from_root(const std::string& path, int flags) {
    const std::string below = path == "/" ? "." : path.substr(1);
    try {
        const UniqueFd root = open_directory("/");
        return open_beneath(root.get(), below, flags);
    } catch (const Error& error) {
        throw Error(error.code(), "{}: {}", quote(path), error.what());
    }
}

UniqueFd open_directory_of(const std::string& path) {
    return open_from_root(fs::path(path).parent_path().string(), O_RDONLY | O_DIRECTORY);
}

struct stat checked_file(int fd, const std::string& path) {
    struct stat status {};
    if (::fstat(fd, &status) < 0) throw system_error(errno, "cannot look at " + quote(path));
    const auto refuse = [&](std::string_view why) {
        throw Error(ErrorCode::unsafe_image, "variable store {} {}", quote(path), why);
    };
    if (!S_ISREG(status.st_mode)) refuse("is no regular file");
    if (status.st_nlink != 1) refuse("has several names: another file may be meant");
    if (status.st_size == 0) refuse("is empty");
    if (static_cast<std::uint64_t>(status.st_size) > max_nvram_bytes)
        refuse(fmt::format("is larger than {} bytes: it is a disk", max_nvram_bytes));
    return status;
}

/// As it was named, and nothing that came in its place.
UniqueFd open_store(const NvramStore& store, int flags) {
    UniqueFd fd = open_from_root(store.path, flags);
    const struct stat status = checked_file(fd.get(), store.path);
    if (status.st_uid != store.uid)
        throw Error(ErrorCode::unsafe_image,
                    "variable store {} belongs to user {} now, and to {} when it was named: name it again "
                    "('volchainctl vm update --nvram') if that is right",
                    quote(store.path), status.st_uid, store.uid);
    return fd;
}

std::string content_of(int fd, const std::string& path, std::uint64_t limit) {
    struct stat status {};
    if (::fstat(fd, &status) < 0) throw system_error(errno, "cannot look at " + quote(path));
    if (static_cast<std::uint64_t>(status.st_size) > limit)
        throw Error(ErrorCode::unsafe_image, "{} is larger than {} bytes", quote(path), limit);
    std::string content(static_cast<std::size_t>(status.st_size), '\0');
    content.resize(read_at(fd, std::as_writable_bytes(std::span(content)), 0));
    return content;
}

NvramStore named_store(const std::string& path, const UserRights& caller) {
    const auto refuse = [&](std::string_view why) {
        throw Error(ErrorCode::invalid_argument, "option 'nvram': {} {}", quote(path), why);
    };
    const fs::path parts(path);
    if (!parts.is_absolute() || path.find('\0') != std::string::npos || !valid_utf8(path))
        refuse("is not an absolute path");
    if (std::find(parts.begin(), parts.end(), "..") != parts.end() || parts.filename().empty())
        refuse("is not the path of a file");
    UniqueFd fd;
    try {
        const ActingAs as_caller(caller);
        fd = open_from_root(path, O_RDWR);
    } catch (const Error& error) {
        // EACCES; EISDIR, ENXIO and what else opening a file that is none ends in.
        ErrorCode code = error.code();
        if (code == ErrorCode::read_only) code = ErrorCode::access_denied;
        if (code == ErrorCode::internal) code = ErrorCode::invalid_argument;
        throw Error(code, "option 'nvram': {} (symbolic links are not followed)", error.what());
    }
    const struct stat status = checked_file(fd.get(), path);
    if (qcow2::identify(qcow2::FileSource(fd.get())))
        refuse("is the image of a disk; a variable store is raw");
    return {path, status.st_uid};
}

/// A name that only a crash in replace_store() leaves behind, which the next one takes away.
std::string temporary_name(const std::string& path) {
    return fmt::format(".{}.volchain", fs::path(path).filename().string());
}

/// The rights of what was there, or else of the copy.
void take_access(const NvramStore& store, int to, const std::string& copy_pool, const SnapshotFile& copy) {
    try {
        const UniqueFd before = open_store(store, O_RDONLY);
        return copy_access(before.get(), to);
    } catch (const Error& error) {
        if (error.code() != ErrorCode::not_found) throw;
    }
    const UniqueFd pool = open_directory(copy_pool);
    copy_access(open_beneath(pool.get(), copy.file, O_RDONLY).get(), to);
    if (::fchown(to, store.uid, static_cast<gid_t>(-1)) < 0)
        throw system_error(errno, fmt::format("cannot give {} to user {}", quote(store.path), store.uid));
}

}  // namespace

std::vector<NvramStore> named_stores(const std::vector<std::string>& paths, const UserRights& caller) {
    if (paths.size() > max_nvram_stores)
        throw Error(ErrorCode::invalid_argument, "option 'nvram': more than {} stores", max_nvram_stores);
    std::vector<NvramStore> stores;
    for (const std::string& path : paths) {
        NvramStore store = named_store(path, caller);
        if (std::find(stores.begin(), stores.end(), store) != stores.end())
            throw Error(ErrorCode::invalid_argument, "option 'nvram': {} is named twice", quote(path));
        stores.push_back(std::move(store));
    }
    return stores;
}

std::uint64_t store_bytes(const NvramStore& store) {
    const UniqueFd fd = open_store(store, O_RDONLY);
    return static_cast<std::uint64_t>(checked_file(fd.get(), store.path).st_size);
}

std::string read_store(const NvramStore& store) {
    const UniqueFd fd = open_store(store, O_RDONLY);
    std::string before = content_of(fd.get(), store.path, max_nvram_bytes);
    for (int reading = 1; reading < most_readings; ++reading) {
        std::string again = content_of(fd.get(), store.path, max_nvram_bytes);
        if (again == before) return again;
        before = std::move(again);
    }
    throw Error(ErrorCode::busy, "the guest writes to its variable store {} without a pause",
                quote(store.path));
}

std::optional<qmp::ImageLock> lock_store(const NvramStore& store) {
    try {
        return qmp::ImageLock::take_writer(open_store(store, O_RDONLY), store.path);
    } catch (const Error& error) {
        if (error.code() != ErrorCode::not_found) throw;
    }
    // It can be made anew where its directory is there.
    (void)open_directory_of(store.path);
    return std::nullopt;
}

std::string read_copy(const std::string& pool, const SnapshotFile& copy) {
    const UniqueFd directory = open_directory(pool);
    const UniqueFd fd = open_beneath(directory.get(), copy.file, O_RDONLY);
    std::string content = content_of(fd.get(), copy.file, max_nvram_bytes);
    if (content.size() != copy.bytes)
        throw Error(ErrorCode::corrupt_image, "the copy {} of a variable store has {} bytes, not {}",
                    quote(pool + "/" + copy.file), content.size(), copy.bytes);
    return content;
}

void fill_copy(const std::string& pool, const std::string& file, const std::string& content) {
    const UniqueFd directory = open_directory(pool);
    const UniqueFd fd = open_beneath(directory.get(), file, O_WRONLY);
    write_at(fd.get(), std::as_bytes(std::span(content)), 0);
}

void replace_store(const NvramStore& store, const std::string& content, const std::string& copy_pool,
                   const SnapshotFile& copy) {
    const UniqueFd directory = open_directory_of(store.path);
    const std::string temporary = temporary_name(store.path);
    const std::string name = fs::path(store.path).filename().string();
    (void)::unlinkat(directory.get(), temporary.c_str(), 0);
    const UniqueFd fd = open_beneath(directory.get(), temporary, O_WRONLY | O_CREAT | O_EXCL, 0600);
    try {
        write_at(fd.get(), std::as_bytes(std::span(content)), 0);
        take_access(store, fd.get(), copy_pool, copy);
        sync(fd.get(), quote(store.path));
        if (::renameat(directory.get(), temporary.c_str(), directory.get(), name.c_str()) < 0)
            throw system_error(errno, "cannot replace " + quote(store.path));
    } catch (...) {
        (void)::unlinkat(directory.get(), temporary.c_str(), 0);
        throw;
    }
    sync(directory.get(), "the directory of " + quote(store.path));
}

}  // namespace volchain::storage
