// SPDX-License-Identifier: MIT
//
// Condition: where coroutines wait for something to become true on this thread. As with any condition
// variable the waiter looks itself, in a loop:
//
//     while (!done_) co_await changed_.wait(deadline, "the end of job x");
//
// The object whose state it is about owns it; it must outlive its waiters.
#pragma once

#include <boost/asio/steady_timer.hpp>
#include <list>
#include <string>

#include "async/task.h"

namespace volchain::async {

class Condition {
  public:
    Condition() = default;
    Condition(const Condition&) = delete;
    Condition& operator=(const Condition&) = delete;

    /// Returns after the next notify(). Throws Timeout ("no answer within ... : <what>") at the deadline,
    /// Cancelled where the waiting task was stopped.
    Task<> wait(Deadline deadline, std::string what);

    /// Wakes all who wait now. They run later, from the event loop, not inside this call.
    void notify();

  private:
    struct Waiter {
        Waiter(const Executor& executor, Deadline deadline) : timer(executor, deadline) {}
        asio::steady_timer timer;
        bool notified = false;
    };
    std::list<Waiter*> waiters_;
};

}  // namespace volchain::async
