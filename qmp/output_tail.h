// SPDX-License-Identifier: MIT
//
// OutputTail: reads what a child process writes to a pipe, for as long as there is somebody who writes, and
// keeps the end of it. So the child never blocks at a full pipe, and its last words are there when it is
// gone.
#pragma once

#include <array>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <memory>
#include <string>

#include "async/condition.h"

namespace volchain::qmp {

class OutputTail : public std::enable_shared_from_this<OutputTail> {
  public:
    /// Takes the pipe and begins.
    [[nodiscard]] static std::shared_ptr<OutputTail> read(async::asio::posix::stream_descriptor pipe);

    /// At most so many bytes from the end of what was read so far, without the last newline.
    [[nodiscard]] std::string last(std::size_t bytes) const;
    /// Returns when all that was written has been read, at the deadline at the latest.
    async::Task<> wait_end(async::Deadline deadline);
    void close() noexcept;

  private:
    explicit OutputTail(async::asio::posix::stream_descriptor pipe) : pipe_(std::move(pipe)) {}
    void read_some();

    async::asio::posix::stream_descriptor pipe_;
    std::array<char, 4096> buffer_{};
    std::string text_;
    bool ended_ = false;
    async::Condition end_;
};

}  // namespace volchain::qmp
