// SPDX-License-Identifier: MIT
#include "client/backup_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "base/text.h"

namespace volchain::client {
namespace {

constexpr const char* catalog_name = "volchain-backup.json";
constexpr const char* new_catalog_name = ".volchain-backup.json.new";
constexpr const char* lock_name = ".volchain-backup.lock";
constexpr const char* pending_name = ".volchain-backup.pending";
constexpr mode_t private_file = 0600;
constexpr mode_t private_directory = 0700;
constexpr std::size_t most_pending_bytes = std::size_t{16} << 20;

std::string real_path(const std::string& path) {
    const std::unique_ptr<char, void (*)(void*)> found(::realpath(path.c_str(), nullptr), std::free);
    if (found == nullptr) throw system_error(errno, "cannot open directory " + quote(path));
    return found.get();
}

UniqueFd open_or_create(const std::string& path, bool create) {
    if (create && ::mkdir(path.c_str(), private_directory) < 0 && errno != EEXIST)
        throw system_error(errno, "cannot make directory " + quote(path));
    return open_directory(path);
}

/// What cannot be looked at is not taken for absent.
bool exists_in(int directory, const std::string& name) {
    struct stat status {};
    if (::fstatat(directory, name.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0) return true;
    if (errno != ENOENT) throw system_error(errno, "cannot look at " + quote(name));
    return false;
}

/// One that could not be read again would put all moments out of reach.
void check_readable(const std::string& catalog) {
    try {
        if (catalog.size() > most_catalog_bytes)
            throw Error(ErrorCode::unsupported, "it has {} bytes", catalog.size());
        (void)BackupCatalog::parse(catalog);
    } catch (const Error& error) {
        throw Error(
            ErrorCode::unsupported,
            "the catalogue would not be readable with this moment: {}; remove old moments with --keep, or "
            "back up to another directory",
            error.what());
    }
}

std::string content_of(int directory, const std::string& name, std::size_t limit) {
    const UniqueFd file = open_beneath(directory, name, O_RDONLY);
    struct stat status {};
    if (::fstat(file.get(), &status) < 0) throw system_error(errno, "cannot look at " + quote(name));
    if (!S_ISREG(status.st_mode) || status.st_size < 0 || static_cast<std::uint64_t>(status.st_size) > limit)
        throw Error(ErrorCode::corrupt_image, "{} is no file of at most {} bytes", quote(name), limit);
    std::string content(static_cast<std::size_t>(status.st_size), '\0');
    try {
        content.resize(read_at(file.get(), std::as_writable_bytes(std::span(content)), 0));
    } catch (const Error& error) {
        throw error.during(quote(name));
    }
    return content;
}

void write_new(int directory, const std::string& name, std::span<const std::byte> content) {
    const UniqueFd file = open_beneath(directory, name, O_WRONLY | O_CREAT | O_EXCL, private_file);
    try {
        write_at(file.get(), content, 0);
    } catch (const Error& error) {
        throw error.during(quote(name));
    }
    sync(file.get(), quote(name));
}

}  // namespace

BackupDirectory::BackupDirectory(const std::string& path, Use use, bool create)
    : directory_(open_or_create(path, create)) {
    path_ = real_path(path);
    lock(use);
}

/// On a file of its own, as NFS locks no directories. It goes with this process.
void BackupDirectory::lock(Use use) {
    if (use == Use::look) return;
    const bool alone = use == Use::write;
    try {
        lock_ = open_beneath(directory_.get(), lock_name, O_RDWR | O_CREAT, private_file);
    } catch (const Error& error) {
        // What nobody can write to changes for nobody.
        if (alone || (error.code() != ErrorCode::read_only && error.code() != ErrorCode::access_denied))
            throw;
        return;
    }
    if (::flock(lock_.get(), (alone ? LOCK_EX : LOCK_SH) | LOCK_NB) == 0) return;
    if (errno == EWOULDBLOCK)
        throw Error(ErrorCode::busy,
                    "another volchainctl works on the backups in {}; try again when it has ended",
                    quote(path_));
    throw system_error(errno, "cannot lock " + quote(path_of(lock_name)));
}

std::optional<BackupCatalog> BackupDirectory::catalog() const {
    try {
        if (!exists_in(directory_.get(), catalog_name)) return std::nullopt;
        return BackupCatalog::parse(content_of(directory_.get(), catalog_name, most_catalog_bytes));
    } catch (const Error& error) {
        if (error.code() != ErrorCode::corrupt_image) throw error.during(quote(path_));
        throw Error(
            ErrorCode::corrupt_image,
            "{} is damaged: {}. The files are as they were; back up to another directory, and restore "
            "single disks from this one with 'backup restore --file'",
            quote(path_of(catalog_name)), error.what());
    }
}

// --- making ------------------------------------------------------------------------------------------------

void BackupDirectory::begin(const std::vector<std::string>& names) {
    std::vector<std::string> all = pending();
    all.insert(all.end(), names.begin(), names.end());
    replace_file(directory_.get(), pending_name, Json{{"files", all}}.dump() + "\n", private_file);
}

UniqueFd BackupDirectory::make_part(const std::string& name) const {
    return open_beneath(directory_.get(), part_of(name), O_RDWR | O_CREAT | O_EXCL, private_file);
}

void BackupDirectory::write_part(const std::string& name, std::span<const std::byte> content) const {
    write_new(directory_.get(), part_of(name), content);
}

std::string BackupDirectory::content(const std::string& name, std::size_t limit) const {
    return content_of(directory_.get(), name, limit);
}

UniqueFd BackupDirectory::open(const std::string& name) const {
    return open_beneath(directory_.get(), name, O_RDONLY);
}

std::uint64_t BackupDirectory::flush_part(const std::string& name) const {
    const UniqueFd file = open(part_of(name));
    sync(file.get(), quote(path_of(name)));
    struct stat status {};
    if (::fstat(file.get(), &status) < 0) throw system_error(errno, "cannot look at " + quote(name));
    // What is read of it from now on comes from the medium.
    (void)::posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED);
    return static_cast<std::uint64_t>(status.st_size);
}

void BackupDirectory::publish(const std::vector<std::string>& names) {
    try {
        for (const std::string& name : names) rename_to_new(directory_.get(), part_of(name), name);
    } catch (const Error& error) {
        throw error.during(quote(path_));
    }
    sync(directory_.get(), quote(path_));
}

void BackupDirectory::prepare(const BackupCatalog& catalog) {
    const std::string text = catalog.text();
    check_readable(text);
    (void)::unlinkat(directory_.get(), new_catalog_name, 0);
    write_new(directory_.get(), new_catalog_name, std::as_bytes(std::span(text)));
}

void BackupDirectory::commit() {
    if (::renameat(directory_.get(), new_catalog_name, directory_.get(), catalog_name) < 0)
        throw system_error(errno, "cannot replace " + quote(path_of(catalog_name)));
    sync(directory_.get(), quote(path_));
}

// --- what is left ------------------------------------------------------------------------------------------

std::vector<std::string> BackupDirectory::pending() const {
    if (!exists_in(directory_.get(), pending_name)) return {};
    const std::string what = quote(path_of(pending_name));
    const Json json = parse_json(content_of(directory_.get(), pending_name, most_pending_bytes), what,
                                 ErrorCode::corrupt_image);
    std::vector<std::string> names;
    for (const JsonReader& name : JsonReader(json, what, ErrorCode::corrupt_image).at("files").elements())
        names.push_back(file_name_in(name));
    return names;
}

std::size_t BackupDirectory::clean_up(const BackupCatalog& catalog) {
    const std::vector<std::string> kept = catalog.files();
    const std::set<std::string> in_use(kept.begin(), kept.end());
    std::size_t removed = 0;
    for (const std::string& name : pending()) {
        if (remove_file(directory_.get(), part_of(name))) ++removed;
        if (!in_use.contains(name) && remove_file(directory_.get(), name)) ++removed;
    }
    (void)remove_file(directory_.get(), new_catalog_name);
    (void)remove_file(directory_.get(), pending_name);
    return removed;
}

std::optional<std::uint64_t> BackupDirectory::length_of(const std::string& name) const {
    struct stat status {};
    if (::fstatat(directory_.get(), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) < 0) {
        if (errno == ENOENT) return std::nullopt;
        throw system_error(errno, "cannot look at " + quote(path_of(name)));
    }
    if (!S_ISREG(status.st_mode) || status.st_size < 0) return std::nullopt;
    return static_cast<std::uint64_t>(status.st_size);
}

}  // namespace volchain::client
