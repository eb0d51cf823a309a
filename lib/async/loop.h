// SPDX-License-Identifier: MIT
//
// Loop: the one thread on which everything but blocking calls runs.
#pragma once

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <functional>

#include "async/task.h"

namespace volchain::async {

class Loop {
  public:
    /// Runs until stop().
    void run();
    void stop() { context_.stop(); }
    [[nodiscard]] Executor executor() { return context_.get_executor(); }

    /// Runs a program's main coroutine: starts it, runs the loop until it ends, rethrows what it threw.
    void run_main(Task<> main);

  private:
    asio::io_context context_{1};
    asio::executor_work_guard<asio::io_context::executor_type> work_{context_.get_executor()};
};

}  // namespace volchain::async
