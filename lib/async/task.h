// SPDX-License-Identifier: MIT
//
// Task: the coroutine type of the project (Asio's awaitable on the one thread of the daemon), and the words
// that go with it. The rules for writing one are in HACKING.md; the first: no aggregate temporary, capturing
// lambda, `?:` or braced list in a full expression with `co_await`.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/this_coro.hpp>
#include <chrono>
#include <exception>
#include <utility>

namespace volchain::async {

namespace asio = boost::asio;

using Executor = asio::any_io_executor;

template <typename T = void>
using Task = asio::awaitable<T>;

using Clock = std::chrono::steady_clock;
/// When a wait ends with Timeout. Every wait has one.
using Deadline = Clock::time_point;

[[nodiscard]] inline Deadline after(Clock::duration duration) {
    return Clock::now() + duration;
}

/// Only for waits that end with their object's life (a reader of a socket, a supervisor's idle loop).
inline constexpr Deadline no_deadline = Deadline::max();

/// In a task that was stopped, every further `co_await` throws at once. Clean-up that has to wait begins with
/// `co_await ignore_cancellation();` and from there on runs as if nothing had happened (its waits have
/// deadlines).
[[nodiscard]] inline auto ignore_cancellation() {
    return asio::this_coro::throw_if_cancelled(false);
}

/// Ends with the event loop's next turn: lets others run.
Task<> yield();

/// Returns at the deadline; Cancelled where its task group is stopped before.
Task<> sleep_until(Deadline deadline);

/// Awaits `task`; what it throws is put into `failure` instead. For clean-up, which cannot stand in a catch block, and
/// for tasks that run side by side.
template <typename T>
Task<> keep_failure(Task<T> task, std::exception_ptr& failure) {
    try {
        (void)co_await std::move(task);
    } catch (...) {
        failure = std::current_exception();
    }
}

template <typename T>
Task<> keep_result(Task<T> task, T& result, std::exception_ptr& failure) {
    try {
        result = co_await std::move(task);
    } catch (...) {
        failure = std::current_exception();
    }
}

}  // namespace volchain::async
