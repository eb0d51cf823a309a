// SPDX-License-Identifier: MIT
//
// ImageStamp: what tells whether a file was written to since, by whomever: which file it is, how long it is, when it was last
// written. QEMU's locks tell only who may write now; and who reads an image while others may write to it, as a backup of a VM that
// is down does, must know whether somebody has. It is a value, and stored.
//
// Every write to a file, and every hole that is punched, moves its time, whether past the page cache or not; but not further than
// the clock of the file system ticks. So a stamp is good for what is written from one tick after the last write on: tick_passed().
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <ctime>
#include <string>

#include "base/timestamp.h"

namespace volchain::storage {

class ImageStamp {
  public:
    /// Of an open file.
    [[nodiscard]] static ImageStamp of(int fd);
    /// Of a file beneath a pool's directory. Throws where it is not there.
    [[nodiscard]] static ImageStamp of(const std::string& pool, const std::string& file);

    [[nodiscard]] std::string str() const;
    /// Whether what is written to the file after `time` shows.
    [[nodiscard]] bool tick_passed(Timestamp time) const;

  private:
    dev_t device_ = 0;
    ino_t inode_ = 0;
    std::uint64_t size_ = 0;
    std::int64_t seconds_ = 0;
    std::int64_t nanoseconds_ = 0;
};

}  // namespace volchain::storage
