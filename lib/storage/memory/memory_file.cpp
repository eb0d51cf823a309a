// SPDX-License-Identifier: MIT
#include "storage/memory/memory_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <span>

#include "base/error.h"
#include "base/file.h"
#include "base/text.h"

namespace volchain::storage {
namespace {

namespace fs = std::filesystem;

/// migration/savevm.c: QEMU_VM_FILE_MAGIC and QEMU_VM_FILE_VERSION, big endian.
constexpr std::array<unsigned char, 8> stream_magic{'Q', 'E', 'V', 'M', 0, 0, 0, 3};

/// libvirt's src/qemu/qemu_saveimage.h: numbers in the byte order of the host that wrote it.
struct LibvirtHeader {
    std::array<char, 16> magic;
    std::uint32_t version;
    std::uint32_t data_length;  ///< of the XML behind the header, and what belongs to it
    std::uint32_t was_running;
    std::uint32_t compressed;
    std::uint32_t cookie_offset;
    std::array<std::uint32_t, 14> unused;
};
static_assert(sizeof(LibvirtHeader) == 92);
constexpr std::string_view libvirt_magic = "LibvirtQemudSave";
constexpr std::string_view libvirt_partial = "LibvirtQemudPart";
constexpr std::uint32_t last_libvirt_version = 2;  // 3 has a layout of its own (mapped-ram)

/// So much may be in it besides RAM: the state of devices, the memory of a video card.
constexpr std::uint64_t room_for_devices = std::uint64_t{32} << 20;
constexpr std::uint64_t page_bytes = 4096;
constexpr std::uint64_t page_head_bytes = 8;

struct stat regular_file(int fd, const std::string& path) {
    struct stat status {};
    if (::fstat(fd, &status) < 0) throw system_error(errno, "cannot look at " + quote(path));
    if (!S_ISREG(status.st_mode))
        throw Error(ErrorCode::unsafe_image, "{} is not a regular file", quote(path));
    return status;
}

bool stream_begins(int fd, std::uint64_t offset) {
    std::array<std::byte, stream_magic.size()> head{};
    const std::size_t got = read_at(fd, head, offset);
    return got == head.size() && std::memcmp(head.data(), stream_magic.data(), head.size()) == 0;
}

/// Where the stream begins behind libvirt's header; 0 where there is none.
std::uint64_t behind_libvirt_header(int fd, const std::string& path) {
    LibvirtHeader header{};
    const std::size_t got = read_at(fd, std::as_writable_bytes(std::span(&header, 1)), 0);
    const std::string_view magic(header.magic.data(), header.magic.size());
    if (got != sizeof header) return 0;
    if (magic == libvirt_partial)
        throw Error(ErrorCode::corrupt_image, "{} was not written to its end by libvirt", quote(path));
    if (magic != libvirt_magic) return 0;
    if (header.version == 0 || header.version > last_libvirt_version)
        throw Error(ErrorCode::unsupported, "{} has a header of libvirt of version {}; known are 1 and 2",
                    quote(path), header.version);
    if (header.compressed != 0)
        throw Error(ErrorCode::unsupported, "{} was compressed by libvirt, which QEMU cannot read",
                    quote(path));
    return sizeof header + std::uint64_t{header.data_length};
}

/// Where there is too little, nothing is tried: a file system gives what it has before it says so, and a guest that writes in that
/// moment would find it full.
void reserve(int fd, std::uint64_t room, const std::string& path) {
    struct statvfs status {};
    if (::fstatvfs(fd, &status) < 0)
        throw system_error(errno, "cannot look at the file system of " + quote(path));
    if (std::uint64_t{status.f_bavail} * status.f_frsize < room)
        throw system_error(ENOSPC, fmt::format("cannot reserve {} bytes for {}", room, quote(path)));
    if (::fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, static_cast<off_t>(room)) == 0) return;
    if (errno == EOPNOTSUPP || errno == ENOSYS) return;
    throw system_error(errno, fmt::format("cannot reserve {} bytes for {}", room, quote(path)));
}

}  // namespace

std::uint64_t memory_room(std::uint64_t ram_bytes) noexcept {
    return ram_bytes + ram_bytes / page_bytes * page_head_bytes + room_for_devices;
}

UniqueFd open_memory_to_write(const std::string& pool, const std::string& file, std::uint64_t room) {
    const UniqueFd directory = open_directory(pool);
    UniqueFd fd = open_beneath(directory.get(), file, O_WRONLY);
    (void)regular_file(fd.get(), pool + "/" + file);
    // QEMU writes to it from a thread of its own, which may wait.
    if (::fcntl(fd.get(), F_SETFL, 0) < 0) throw system_error(errno, "cannot prepare " + quote(file));
    reserve(fd.get(), room, pool + "/" + file);
    return fd;
}

MemoryStream open_memory(const std::string& pool, const std::string& file) {
    const std::string path = pool + "/" + file;
    const UniqueFd directory = open_directory(pool);
    MemoryStream stream;
    stream.fd = open_beneath(directory.get(), file, O_RDONLY);
    const struct stat status = regular_file(stream.fd.get(), path);
    if (::fcntl(stream.fd.get(), F_SETFL, 0) < 0) throw system_error(errno, "cannot prepare " + quote(path));
    const std::uint64_t begin = behind_libvirt_header(stream.fd.get(), path);
    if (!stream_begins(stream.fd.get(), begin))
        throw Error(ErrorCode::corrupt_image, "{} holds no memory of a QEMU", quote(path));
    if (::lseek(stream.fd.get(), static_cast<off_t>(begin), SEEK_SET) < 0)
        throw system_error(errno, "cannot read " + quote(path));
    stream.bytes = static_cast<std::uint64_t>(status.st_size) - begin;
    return stream;
}

std::uint64_t file_bytes(const std::string& pool, const std::string& file) {
    const UniqueFd directory = open_directory(pool);
    const UniqueFd fd = open_beneath(directory.get(), file, O_RDONLY);
    return static_cast<std::uint64_t>(regular_file(fd.get(), pool + "/" + file).st_size);
}

std::uint64_t flush_memory(const std::string& pool, const std::string& file) {
    const UniqueFd directory = open_directory(pool);
    const UniqueFd fd = open_beneath(directory.get(), file, O_WRONLY);
    const struct stat status = regular_file(fd.get(), pool + "/" + file);
    // As long as it is: what was reserved behind its end goes.
    if (::ftruncate(fd.get(), status.st_size) < 0)
        throw system_error(errno, "cannot cut " + quote(file) + " at its end");
    sync(fd.get(), quote(file));
    const std::string parent = fs::path(file).parent_path().string();
    const UniqueFd entries =
        open_beneath(directory.get(), parent.empty() ? "." : parent, O_RDONLY | O_DIRECTORY);
    sync(entries.get(), "the directory of " + quote(file));
    return static_cast<std::uint64_t>(status.st_size);
}

bool has_open(int pid, const std::string& pool, const std::string& file) {
    struct stat wanted {};
    const std::string path = pool + "/" + file;
    if (::stat(path.c_str(), &wanted) < 0) return false;
    std::error_code failure;
    for (const auto& entry : fs::directory_iterator(fmt::format("/proc/{}/fd", pid), failure)) {
        struct stat open {};
        if (::stat(entry.path().c_str(), &open) == 0 && open.st_dev == wanted.st_dev &&
            open.st_ino == wanted.st_ino)
            return true;
    }
    return false;
}

}  // namespace volchain::storage
