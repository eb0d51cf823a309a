// SPDX-License-Identifier: MIT
#include "async/deadline.h"

#include <gtest/gtest.h>

#include "async/condition.h"
#include "async/task_group.h"
#include "base/error.h"
#include "support/run_task.h"

namespace volchain::async::deadline_test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

Task<int> seven() {
    co_await yield();
    co_return 7;
}

Task<> refuse() {
    co_await yield();
    throw Error(ErrorCode::busy, "refused");
}

Task<> never(Condition& condition, bool& ended) {
    std::exception_ptr failure;
    co_await keep_failure(condition.wait(no_deadline, "nothing"), failure);
    ended = true;
    if (failure) std::rethrow_exception(failure);
}

Task<std::string> error_of(Task<> task) {
    std::exception_ptr failure;
    co_await keep_failure(std::move(task), failure);
    co_return failure ? std::string(to_error(failure).what()) : std::string();
}

Task<> values_failures_and_limits() {
    EXPECT_EQ(co_await with_deadline(seven(), after(seconds(20)), "seven"), 7);

    const auto start = Clock::now();
    EXPECT_EQ(co_await error_of(with_deadline(refuse(), after(seconds(20)), "a refusal")), "refused");
    EXPECT_LT(Clock::now() - start, seconds(10)) << "a failure waited for the deadline";

    Condition condition;
    bool ended = false;
    EXPECT_EQ(
        co_await error_of(with_deadline(never(condition, ended), after(milliseconds(20)), "the impossible")),
        "timed out waiting for the impossible");
    EXPECT_TRUE(ended) << "it goes on after its deadline";
}

TEST(Deadline, ValuesFailuresAndLimits) {
    run(values_failures_and_limits());
}

Task<> wait_with_deadline(Condition& condition, bool& ended, std::string& text) {
    text = co_await error_of(with_deadline(never(condition, ended), after(seconds(20)), "the impossible"));
}

Task<> a_stopped_wait_says_so() {
    Condition condition;
    bool ended = false;
    std::string text;
    TaskGroup group(co_await asio::this_coro::executor);
    group.spawn(wait_with_deadline(condition, ended, text), "waiter");
    co_await yield();
    co_await yield();
    co_await group.stop();
    EXPECT_TRUE(ended);
    EXPECT_EQ(text, "stopped while waiting for nothing");
}

TEST(Deadline, AStoppedWaitSaysSo) {
    run(a_stopped_wait_says_so());
}

}  // namespace
}  // namespace volchain::async::deadline_test
