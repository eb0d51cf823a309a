// SPDX-License-Identifier: MIT
//
// TaskGroup: owns the coroutines that an object started. There is no other way to start one: a task belongs
// to the object it works on, and that object does not go before its tasks have ended.
#pragma once

#include <boost/asio/cancellation_signal.hpp>
#include <list>
#include <string>

#include "async/condition.h"
#include "async/task.h"

namespace volchain::async {

class TaskGroup {
  public:
    explicit TaskGroup(Executor executor) : executor_(std::move(executor)) {}
    TaskGroup(const TaskGroup&) = delete;
    TaskGroup& operator=(const TaskGroup&) = delete;
    /// All tasks must have ended: stop() or join() was awaited.
    ~TaskGroup();

    /// Starts a task. An exception that leaves it is logged as an error with `what`; Cancelled after stop()
    /// is not. Throws Cancelled when the group takes no more tasks.
    void spawn(Task<> task, std::string what);

    /// Refuses new tasks, cancels the running ones at the place where they wait, returns when all have ended.
    /// In a task that may itself have been stopped: after `co_await ignore_cancellation()`.
    Task<> stop();
    /// Refuses new tasks and returns when the running ones have ended by themselves; Timeout at the deadline.
    Task<> join(Deadline deadline);
    /// Refuses new tasks and returns when the running ones have ended; where the caller is stopped meanwhile, they are
    /// too. For a group that lives in one coroutine: nothing may be awaited between the first spawn() and this.
    Task<> drain();

    [[nodiscard]] std::size_t size() const noexcept { return running_.size(); }
    [[nodiscard]] const Executor& executor() const noexcept { return executor_; }

  private:
    struct Running {
        std::string what;
        asio::cancellation_signal cancel;
    };
    void ended(std::list<Running>::iterator place, const std::exception_ptr& failure);

    Executor executor_;
    std::list<Running> running_;
    bool closed_ = false;
    bool cancelled_ = false;
    Condition idle_;
};

}  // namespace volchain::async
