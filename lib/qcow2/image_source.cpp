// SPDX-License-Identifier: MIT
#include "qcow2/image_source.h"

#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

#include "base/error.h"
#include "base/file.h"

namespace volchain::qcow2 {
namespace {

struct stat status_of(int fd) {
    struct stat status {};
    if (::fstat(fd, &status) < 0) throw system_error(errno, "cannot get the image's size");
    return status;
}

[[noreturn]] void fail_short(std::size_t wanted, std::uint64_t offset) {
    throw Error(ErrorCode::corrupt_image, "the image file ends before the {} bytes at offset {}", wanted,
                offset);
}

}  // namespace

FileSource::FileSource(int fd) : fd_(fd) {
    const mode_t mode = status_of(fd).st_mode;
    if (!S_ISREG(mode) && !S_ISBLK(mode))
        throw Error(ErrorCode::unsafe_image, "the image is neither a regular file nor a block device");
}

std::uint64_t FileSource::size() const {
    const struct stat status = status_of(fd_);
    if (S_ISREG(status.st_mode)) return static_cast<std::uint64_t>(status.st_size);
    std::uint64_t bytes = 0;
    if (::ioctl(fd_, BLKGETSIZE64, &bytes) < 0)
        throw system_error(errno, "cannot get the block device's size");
    return bytes;
}

void FileSource::read(std::span<std::byte> buffer, std::uint64_t offset) const {
    if (read_at(fd_, buffer, offset) < buffer.size()) fail_short(buffer.size(), offset);
}

void MemorySource::read(std::span<std::byte> buffer, std::uint64_t offset) const {
    if (offset > bytes_.size() || buffer.size() > bytes_.size() - offset) fail_short(buffer.size(), offset);
    const auto from = bytes_.subspan(static_cast<std::size_t>(offset), buffer.size());
    std::copy(from.begin(), from.end(), buffer.begin());
}

}  // namespace volchain::qcow2
