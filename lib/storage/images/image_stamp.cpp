// SPDX-License-Identifier: MIT
#include "storage/images/image_stamp.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>

#include "base/error.h"
#include "base/file.h"

namespace volchain::storage {
namespace {

/// Times of files are those of the last timer interrupt, 1/HZ of a second ago at most: 10 ms.
constexpr auto fine_tick = std::chrono::milliseconds(20);
/// Of file systems that store whole seconds, or every other.
constexpr auto coarse_tick = std::chrono::milliseconds(2100);

}  // namespace

ImageStamp ImageStamp::of(int fd) {
    struct stat status {};
    if (::fstat(fd, &status) < 0) throw system_error(errno, "cannot look at an image");
    ImageStamp stamp;
    stamp.device_ = status.st_dev;
    stamp.inode_ = status.st_ino;
    stamp.size_ = static_cast<std::uint64_t>(status.st_size);
    stamp.seconds_ = status.st_mtim.tv_sec;
    stamp.nanoseconds_ = status.st_mtim.tv_nsec;
    return stamp;
}

ImageStamp ImageStamp::of(const std::string& pool, const std::string& file) {
    const UniqueFd directory = open_directory(pool);
    const UniqueFd image = open_beneath(directory.get(), file, O_RDONLY);
    return of(image.get());
}

std::string ImageStamp::str() const {
    return fmt::format("{}:{}:{}:{}.{:09}", device_, inode_, size_, seconds_, nanoseconds_);
}

bool ImageStamp::tick_passed(Timestamp time) const {
    const Timestamp written(std::chrono::seconds(seconds_) + Microseconds(nanoseconds_ / 1000));
    const Microseconds tick(nanoseconds_ == 0 ? coarse_tick : fine_tick);
    // Where it lies in the future, because a clock was set, the next write sets it back.
    return time > written + tick || written > time + tick;
}

}  // namespace volchain::storage
