// SPDX-License-Identifier: MIT
#include "async/mutex.h"

#include <gtest/gtest.h>

#include "async/task_group.h"
#include "base/error.h"
#include "support/run_task.h"

namespace volchain::async::mutex_test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

Task<> enter(Mutex& mutex, int number, std::vector<int>& order) {
    const auto guard = co_await mutex.lock(after(seconds(10)), "its turn");
    order.push_back(number);
    co_await yield();
    order.push_back(number);
}

Task<> in_order_and_alone() {
    Mutex mutex;
    std::vector<int> order;
    TaskGroup group(co_await asio::this_coro::executor);
    for (int i = 1; i <= 3; ++i) group.spawn(enter(mutex, i, order), "enter");
    co_await group.join(after(seconds(10)));
    EXPECT_EQ(order, (std::vector<int>{1, 1, 2, 2, 3, 3}));
}

TEST(Mutex, InOrderAndAlone) {
    run(in_order_and_alone());
}

Task<> giving_up_leaves_the_queue() {
    Mutex mutex;
    std::vector<int> order;
    TaskGroup group(co_await asio::this_coro::executor);
    {
        const auto guard = co_await mutex.lock(after(seconds(10)), "the first");
        ErrorCode code{};
        try {
            const auto second = co_await mutex.lock(after(milliseconds(10)), "the second");
        } catch (const Error& error) {
            code = error.code();
        }
        EXPECT_EQ(code, ErrorCode::timeout);
        group.spawn(enter(mutex, 3, order), "third");
        co_await yield();
        EXPECT_TRUE(order.empty());
    }
    co_await group.join(after(seconds(10)));
    EXPECT_EQ(order, (std::vector<int>{3, 3}));
}

TEST(Mutex, GivingUpLeavesTheQueue) {
    run(giving_up_leaves_the_queue());
}

Task<> a_stopped_waiter_passes_its_turn_on() {
    Mutex mutex;
    std::vector<int> order;
    TaskGroup stopped(co_await asio::this_coro::executor);
    TaskGroup group(co_await asio::this_coro::executor);
    {
        const auto guard = co_await mutex.lock(after(seconds(10)), "the first");
        stopped.spawn(enter(mutex, 2, order), "second");
        group.spawn(enter(mutex, 3, order), "third");
        co_await yield();
    }
    co_await stopped.stop();  // its turn has come but it has not run yet
    co_await group.join(after(seconds(10)));
    EXPECT_EQ(order.back(), 3);
    EXPECT_EQ(std::count(order.begin(), order.end(), 3), 2);
}

TEST(Mutex, AStoppedWaiterPassesItsTurnOn) {
    run(a_stopped_waiter_passes_its_turn_on());
}

}  // namespace
}  // namespace volchain::async::mutex_test
