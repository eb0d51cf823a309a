// SPDX-License-Identifier: MIT
#include "async/condition.h"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "base/error.h"

namespace volchain::async {

Task<> Condition::wait(Deadline deadline, std::string what) {
    const Executor executor = co_await asio::this_coro::executor;
    Waiter waiter(executor, deadline);
    const auto place = waiters_.insert(waiters_.end(), &waiter);
    struct Leave {
        Condition* condition;
        std::list<Waiter*>::iterator place;
        const Waiter* waiter;
        ~Leave() {
            if (!waiter->notified) condition->waiters_.erase(place);
        }
    };
    const Leave leave{this, place, &waiter};

    const auto [failure] = co_await waiter.timer.async_wait(asio::as_tuple(asio::use_awaitable));
    if (waiter.notified) co_return;
    if (failure) throw Error(ErrorCode::cancelled, "stopped while waiting for {}", what);
    throw Error(ErrorCode::timeout, "timed out waiting for {}", what);
}

void Condition::notify() {
    for (Waiter* waiter : std::exchange(waiters_, {})) {
        waiter->notified = true;
        waiter->timer.cancel();
    }
}

}  // namespace volchain::async
