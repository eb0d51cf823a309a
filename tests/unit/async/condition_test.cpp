// SPDX-License-Identifier: MIT
#include "async/condition.h"

#include <gtest/gtest.h>

#include "async/one_shot.h"
#include "async/task_group.h"
#include "base/error.h"
#include "support/run_task.h"

namespace volchain::async::condition_test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

Task<> count_wakeups(Condition& condition, int& count) {
    co_await condition.wait(after(seconds(10)), "a wake-up");
    ++count;
}

Task<> all_waiters_wake() {
    Condition condition;
    int woken = 0;
    TaskGroup group(co_await asio::this_coro::executor);
    for (int i = 0; i < 3; ++i) group.spawn(count_wakeups(condition, woken), "waiter");
    co_await yield();
    condition.notify();
    EXPECT_EQ(woken, 0) << "woken inside notify()";
    co_await group.join(after(seconds(10)));
    EXPECT_EQ(woken, 3);
    condition.notify();  // nobody waits
}

TEST(Condition, WakesAllWaiters) {
    run(all_waiters_wake());
}

Task<> times_out() {
    Condition condition;
    ErrorCode code{};
    try {
        co_await condition.wait(after(milliseconds(20)), "nothing");
    } catch (const Error& error) {
        code = error.code();
        EXPECT_STREQ(error.what(), "timed out waiting for nothing");
    }
    EXPECT_EQ(code, ErrorCode::timeout);
    condition.notify();
}

TEST(Condition, TimesOut) {
    run(times_out());
}

Task<> deliver_later(OneShot<int>& shot) {
    co_await yield();
    EXPECT_TRUE(shot.deliver(7));
    EXPECT_FALSE(shot.deliver(8));
    EXPECT_FALSE(shot.fail(std::make_exception_ptr(Error(ErrorCode::busy, "late"))));
}

Task<> one_result() {
    OneShot<int> shot;
    TaskGroup group(co_await asio::this_coro::executor);
    group.spawn(deliver_later(shot), "deliverer");
    EXPECT_EQ(co_await shot.wait(after(seconds(10)), "seven"), 7);
    co_await group.join(after(seconds(10)));

    OneShot<int> failed;
    (void)failed.fail(std::make_exception_ptr(Error(ErrorCode::busy, "first")));
    std::string text;
    try {
        (void)co_await failed.wait(after(seconds(10)), "a failure");
    } catch (const Error& error) {
        text = error.what();
    }
    EXPECT_EQ(text, "first");
}

TEST(OneShot, FirstDeliveryCounts) {
    run(one_result());
}

}  // namespace
}  // namespace volchain::async::condition_test
