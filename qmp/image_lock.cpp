// SPDX-License-Identifier: MIT
#include "qmp/image_lock.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <sstream>

#include "base/error.h"
#include "base/file.h"
#include "base/text.h"

namespace volchain::qmp {
namespace {

// block/file-posix.c, qapi/block-core.json (BlockPermission).
constexpr off_t held_base = 100;
constexpr off_t unshared_base = 200;
constexpr off_t consistent_read = 0;
constexpr off_t write_permission = 1;
constexpr off_t resize_permission = 3;
constexpr off_t permissions = 4;

struct flock lock_of(short type, off_t byte) {
    struct flock lock {};
    lock.l_type = type;
    lock.l_whence = SEEK_SET;
    lock.l_start = byte;
    lock.l_len = 1;
    return lock;
}

[[noreturn]] void fail(int error_number, std::string_view activity) {
    if (error_number == EINVAL || error_number == ENOLCK || error_number == EOPNOTSUPP)
        throw Error(ErrorCode::unsupported, "{}: the file system has no locks of this kind", activity);
    throw system_error(error_number, activity);
}

/// Whether somebody else has a lock on that byte. A lock of the same open file description does not count.
bool locked_by_others(int file, off_t byte) {
    struct flock lock = lock_of(F_WRLCK, byte);
    if (::fcntl(file, F_OFD_GETLK, &lock) < 0) fail(errno, "cannot look at the locks of an image");
    return lock.l_type != F_UNLCK;
}

bool anybody_holds(int file, off_t permission) {
    return locked_by_others(file, held_base + permission);
}
bool anybody_refuses(int file, off_t permission) {
    return locked_by_others(file, unshared_base + permission);
}

/// Nobody but us has to do without these two, in whatever role.
bool anybody_changes(int file) {
    return anybody_holds(file, write_permission) || anybody_holds(file, resize_permission);
}

bool writer_clashes(int file) {
    return anybody_changes(file) || anybody_refuses(file, consistent_read) ||
           anybody_refuses(file, write_permission) || anybody_refuses(file, resize_permission);
}

bool reader_clashes(int file) {
    return anybody_changes(file) || anybody_refuses(file, consistent_read);
}

void take(int file, off_t byte) {
    struct flock lock = lock_of(F_RDLCK, byte);
    if (::fcntl(file, F_OFD_SETLK, &lock) == 0) return;
    // QEMU itself never takes a lock that excludes this one.
    if (errno == EAGAIN || errno == EACCES)
        throw Error(ErrorCode::in_use, "cannot lock an image: another process has it to itself");
    fail(errno, "cannot lock an image");
}

/// `held`: the permissions to hold; in either role writing and resizing by others is ruled out.
template <std::size_t N>
void take_all(int file, const std::array<off_t, N>& held) {
    for (const off_t permission : held) take(file, held_base + permission);
    take(file, unshared_base + write_permission);
    take(file, unshared_base + resize_permission);
}

[[noreturn]] void refuse(const std::string& path, std::string_view purpose) {
    std::vector<std::string> names;
    for (const LockHolder& holder : holders_of(path))
        names.push_back(fmt::format("{} (process {})", holder.command, holder.pid));
    throw Error(ErrorCode::in_use, "image {} cannot be locked for {}: {}", quote(path), purpose,
                names.empty() ? "another process has it open" : joined(names, ", ") + " has it open");
}

}  // namespace

// --- ImageLock ---------------------------------------------------------------------------------------------

ImageLock ImageLock::take_writer(UniqueFd file, const std::string& path) {
    ImageLock lock(std::move(file));
    take_all(lock.fd(), std::array{consistent_read, write_permission, resize_permission});
    if (!writer_clashes(lock.fd())) return lock;
    lock.release();
    refuse(path, "writing");
}

ImageLock ImageLock::take_reader(UniqueFd file, const std::string& path) {
    ImageLock lock(std::move(file));
    take_all(lock.fd(), std::array{consistent_read});
    if (!reader_clashes(lock.fd())) return lock;
    lock.release();
    refuse(path, "reading");
}

ImageLock& ImageLock::operator=(ImageLock&& other) noexcept {
    if (this == &other) return *this;
    release();
    file_ = std::move(other.file_);
    return *this;
}

void ImageLock::release() noexcept {
    if (!file_) return;
    struct flock all = lock_of(F_UNLCK, held_base);
    all.l_len = unshared_base + permissions - held_base;
    (void)::fcntl(file_.get(), F_OFD_SETLK, &all);
    file_.reset();
}

bool is_in_use_for_writing(int file) {
    return anybody_changes(file);
}
bool refuses_writer(int file) {
    return writer_clashes(file);
}

// --- who holds them ----------------------------------------------------------------------------------------

namespace {

namespace fs = std::filesystem;

/// Whether that descriptor's own locks are among QEMU's bytes:
///     lock:   1: OFDLCK  ADVISORY  READ -1 fe:00:10952903 100 101
bool has_qemu_lock(const std::string& fdinfo) {
    std::istringstream lines(fdinfo);
    for (std::string line; std::getline(lines, line);) {
        if (!line.starts_with("lock:")) continue;
        std::istringstream words(line);
        std::string label, number, kind, advisory, access, pid, inode;
        off_t begin = 0;
        words >> label >> number >> kind >> advisory >> access >> pid >> inode >> begin;
        if (kind == "OFDLCK" && begin >= held_base && begin < unshared_base + permissions) return true;
    }
    return false;
}

bool same_file(const struct stat& a, const struct stat& b) {
    return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/// The names in a directory of /proc, as far as they can be seen: what it speaks of may go while it is read.
std::vector<std::string> names_in(const std::string& directory) {
    std::vector<std::string> names;
    std::error_code gone;
    fs::directory_iterator entry(directory, gone);
    while (!gone && entry != fs::directory_iterator()) {
        names.push_back(entry->path().filename().string());
        entry.increment(gone);
    }
    return names;
}

bool holds(const std::string& process, const struct stat& image) {
    for (const std::string& number : names_in(process + "/fd")) {
        struct stat file {};
        if (::stat((process + "/fd/" + number).c_str(), &file) < 0 || !same_file(file, image)) continue;
        try {
            if (has_qemu_lock(read_file(process + "/fdinfo/" + number, std::size_t{1} << 20))) return true;
        } catch (const Error&) {
            continue;  // closed meanwhile
        }
    }
    return false;
}

std::string command_name(const std::string& process) {
    try {
        std::string name = read_file(process + "/comm", 4096);
        if (name.ends_with('\n')) name.pop_back();
        return name;
    } catch (const Error&) {
        return "?";
    }
}

}  // namespace

std::vector<LockHolder> holders_of(const std::string& path) {
    std::vector<LockHolder> holders;
    struct stat image {};
    if (::stat(path.c_str(), &image) < 0) return holders;
    for (const std::string& name : names_in("/proc")) {
        pid_t pid = 0;
        const auto [end, wrong] = std::from_chars(name.data(), name.data() + name.size(), pid);
        if (wrong != std::errc() || end != name.data() + name.size()) continue;
        const std::string process = "/proc/" + name;
        if (holds(process, image)) holders.push_back({pid, command_name(process)});
    }
    return holders;
}

}  // namespace volchain::qmp
