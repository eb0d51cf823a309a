// SPDX-License-Identifier: MIT
#include "storage/pools/pool.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <filesystem>

#include "base/file.h"
#include "base/text.h"

namespace volchain::storage {
namespace {

struct Filesystem {
    std::uint32_t magic;  ///< statfs(2), f_type
    const char* name;
    bool local;
};

constexpr std::array known_filesystems{
    Filesystem{0xef53, "ext4", true},         Filesystem{0x58465342, "xfs", true},
    Filesystem{0x9123683e, "btrfs", true},    Filesystem{0x01021994, "tmpfs", true},
    Filesystem{0xf2f52010, "f2fs", true},     Filesystem{0x2fc12fc1, "zfs", true},
    Filesystem{0xca451a4e, "bcachefs", true}, Filesystem{0x794c7630, "overlay", true},
    Filesystem{0x01161970, "gfs2", false},    Filesystem{0x7461636f, "ocfs2", false},
    Filesystem{0x6969, "nfs", false},         Filesystem{0x00c36400, "ceph", false},
    Filesystem{0xff534d42, "cifs", false},    Filesystem{0xfe534d42, "smb2", false},
    Filesystem{0x65735546, "fuse", false},
};

void name_filesystem(PoolStatus& status, const struct statfs& found) {
    const auto magic = static_cast<std::uint32_t>(found.f_type);
    for (const Filesystem& known : known_filesystems) {
        if (known.magic != magic) continue;
        status.filesystem = known.name;
        status.local = known.local;
        return;
    }
    status.filesystem = fmt::format("{:#x}", magic);
}

bool shares_blocks(int directory) {
    const auto unnamed = [&] {
        return UniqueFd(::openat(directory, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    };
    const UniqueFd source = unnamed();
    const UniqueFd target = unnamed();
    if (!source || !target) return false;
    const std::string block(4096, 'x');
    if (::pwrite(source.get(), block.data(), block.size(), 0) != static_cast<ssize_t>(block.size()))
        return false;
    return ::ioctl(target.get(), FICLONE, source.get()) == 0;
}

void make_directory(const std::filesystem::path& path) {
    if (::mkdir(path.c_str(), 0711) < 0) {
        if (errno == EEXIST) return;
        throw system_error(errno, "cannot create pool directory " + quote(path.string()));
    }
    const std::filesystem::path name = path.has_filename() ? path : path.parent_path();  // "/a/b/"
    const UniqueFd entries = open_directory(name.parent_path().string());
    sync(entries.get(), "the directory of pool " + quote(path.string()));
}

}  // namespace

PoolStatus inspect_pool(const std::string& path, bool probe_reflink) {
    PoolStatus status;
    const UniqueFd directory(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
    struct statfs filesystem {};
    struct statvfs room {};
    if (!directory || ::fstatfs(directory.get(), &filesystem) < 0 || ::fstatvfs(directory.get(), &room) < 0)
        return status;
    name_filesystem(status, filesystem);
    status.capacity = std::uint64_t{room.f_blocks} * room.f_frsize;
    status.free = std::uint64_t{room.f_bavail} * room.f_frsize;
    const bool writable =
        (room.f_flag & ST_RDONLY) == 0 && ::faccessat(directory.get(), ".", W_OK, AT_EACCESS) == 0;
    status.state = writable ? PoolState::ok : PoolState::read_only;
    status.reflink = probe_reflink && writable && shares_blocks(directory.get());
    return status;
}

std::string resolve_pool_path(const std::string& path, bool create) {
    namespace fs = std::filesystem;
    const fs::path wanted(path);
    const auto refuse = [&](std::string_view why) {
        throw Error(ErrorCode::invalid_argument, "pool path {} {}", quote(path), why);
    };
    if (!wanted.is_absolute()) refuse("is not absolute");
    if (path.size() >= PATH_MAX) refuse("is too long");
    if (path.find('\0') != std::string::npos || !valid_utf8(path)) refuse("is not valid UTF-8");
    for (const fs::path& part : wanted)
        if (part == "..") refuse("contains '..'");
    if (create) make_directory(wanted);
    std::error_code failure;
    const fs::path real = fs::canonical(wanted, failure);
    if (failure) throw system_error(failure.value(), "cannot use pool directory " + quote(path));
    if (!fs::is_directory(real)) refuse("is not a directory");
    return real.string();
}

}  // namespace volchain::storage
