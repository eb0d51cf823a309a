// SPDX-License-Identifier: MIT
#include "async/task.h"

#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

namespace volchain::async {

Task<> yield() {
    const Executor executor = co_await asio::this_coro::executor;
    co_await asio::post(executor, asio::use_awaitable);
}

Task<> sleep_until(Deadline deadline) {
    const Executor executor = co_await asio::this_coro::executor;
    asio::steady_timer timer(executor, deadline);
    co_await timer.async_wait(asio::use_awaitable);
}

}  // namespace volchain::async
