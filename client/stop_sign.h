// SPDX-License-Identifier: MIT
//
// StopSign: whether the user wants a command that has something to undo to end: by ^C (SIGINT), SIGTERM, or SIGHUP, unless
// whoever started it wants those to pass it by. The command looks, undoes what it has begun, and ends as the signal ends a
// program; nothing is torn out of the middle. Where it is made and waited for is the event loop; threads ask, and poll fd().
#pragma once

#include <atomic>
#include <boost/asio/signal_set.hpp>

#include "async/condition.h"
#include "async/task.h"
#include "base/unique_fd.h"

namespace volchain::client {

/// What ends the program where it was asked to end; all has been said.
struct Interrupted {
    int signal;
};

class StopSign {
  public:
    explicit StopSign(const async::Executor& executor);
    StopSign(const StopSign&) = delete;
    StopSign& operator=(const StopSign&) = delete;

    [[nodiscard]] bool asked() const noexcept { return signal_ != 0; }
    /// Throws Interrupted.
    void throw_if_asked() const;
    /// Readable from the moment on when it is asked.
    [[nodiscard]] int fd() const noexcept { return event_.get(); }
    /// Returns when it is asked.
    [[nodiscard]] async::Task<> wait();
    /// From now on it is too late to be asked.
    void close();

  private:
    void ask(int signal);

    std::atomic<int> signal_ = 0;
    UniqueFd event_;
    async::Condition asked_;
    async::asio::signal_set signals_;
};

}  // namespace volchain::client
