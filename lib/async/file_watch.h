// SPDX-License-Identifier: MIT
//
// FileWatch: tells when a file of a given name may have appeared in a directory (inotify), so that nobody
// polls for a socket to turn up. It may wake without need; the waiter looks itself.
#pragma once

#include <boost/asio/posix/stream_descriptor.hpp>
#include <string>

#include "async/task.h"

namespace volchain::async {

class FileWatch {
  public:
    /// Watches the directory of `path`. Where the directory is not there either, wait() only ends at its
    /// deadline.
    FileWatch(const Executor& executor, const std::string& path);

    /// Returns when something was created in, moved into or removed from the directory under the watched name
    /// since the last call, or at the deadline.
    Task<> wait(Deadline deadline);

  private:
    [[nodiscard]] bool drain();

    std::string name_;
    asio::posix::stream_descriptor inotify_;
};

}  // namespace volchain::async
