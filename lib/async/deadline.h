// SPDX-License-Identifier: MIT
//
// with_deadline(): a limit for an operation that has none of its own (a socket read, the end of a process).
// The operation is cancelled at the deadline and has ended when Timeout is thrown.
#pragma once

#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <string>
#include <type_traits>
#include <utility>

#include "async/task.h"
#include "base/error.h"

namespace volchain::async {

template <typename T>
Task<T> with_deadline(Task<T> operation, Deadline deadline, std::string what) {
    using asio::experimental::awaitable_operators::operator||;
    const Executor executor = co_await asio::this_coro::executor;
    asio::steady_timer timer(executor, deadline);
    auto either = std::move(operation) || timer.async_wait(asio::use_awaitable);
    auto first = co_await std::move(either);
    if (first.index() == 1) throw Error(ErrorCode::timeout, "timed out waiting for {}", what);
    if constexpr (!std::is_void_v<T>) co_return std::get<0>(std::move(first));
}

}  // namespace volchain::async
