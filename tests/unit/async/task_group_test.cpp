// SPDX-License-Identifier: MIT
#include "async/task_group.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/log.h"
#include "support/run_task.h"

namespace volchain::async::task_group_test {
namespace {

using std::chrono::seconds;

Task<> wait_long(Condition& condition, std::vector<std::string>& notes) {
    try {
        co_await condition.wait(no_deadline, "for ever");
    } catch (const Error& error) {
        notes.emplace_back(name(error.code()));
        throw;
    }
}

Task<> stop_cancels_and_joins() {
    Condition never;
    std::vector<std::string> notes;
    TaskGroup group(co_await asio::this_coro::executor);
    group.spawn(wait_long(never, notes), "one");
    group.spawn(wait_long(never, notes), "two");
    co_await yield();
    EXPECT_EQ(group.size(), 2U);
    co_await group.stop();
    EXPECT_EQ(group.size(), 0U);
    EXPECT_EQ(notes, (std::vector<std::string>{"Cancelled", "Cancelled"}));
    EXPECT_THROW(group.spawn(wait_long(never, notes), "three"), Error);
}

TEST(TaskGroup, StopCancelsAndJoins) {
    run(stop_cancels_and_joins());
}

Task<> end_when_released(Condition& release) {
    co_await ignore_cancellation();
    try {
        co_await release.wait(no_deadline, "its release");
    } catch (const Error&) {
    }
    co_await release.wait(no_deadline, "its release");
}

Task<> notify_soon(Condition& condition) {
    for (int i = 0; i < 10; ++i) co_await yield();
    condition.notify();
}

Task<> stop_inner(bool& inner_ended) {
    Condition never;
    std::vector<std::string> notes;
    TaskGroup inner(co_await asio::this_coro::executor);
    inner.spawn(wait_long(never, notes), "inner");
    std::exception_ptr failure;
    try {
        co_await never.wait(no_deadline, "for ever");
    } catch (...) {
        failure = std::current_exception();
    }
    co_await ignore_cancellation();
    co_await inner.stop();
    inner_ended = inner.size() == 0;
    if (failure) std::rethrow_exception(failure);
}

Task<> a_stopped_task_can_stop_its_own_group() {
    bool inner_ended = false;
    TaskGroup outer(co_await asio::this_coro::executor);
    outer.spawn(stop_inner(inner_ended), "outer");
    co_await yield();
    co_await outer.stop();
    EXPECT_TRUE(inner_ended);
}

Task<> stop_a_slow_group(Condition& release, bool& ended) {
    TaskGroup inner(co_await asio::this_coro::executor);
    inner.spawn(end_when_released(release), "inner");
    co_await inner.stop();
    ended = inner.size() == 0;
}

Task<> drain_two(Condition& never, std::vector<std::string>& notes, std::size_t& left) {
    TaskGroup inner(co_await asio::this_coro::executor);
    inner.spawn(wait_long(never, notes), "one");
    inner.spawn(wait_long(never, notes), "two");
    std::exception_ptr failure;
    co_await keep_failure(inner.drain(), failure);
    left = inner.size();
    EXPECT_EQ(to_error(failure).code(), ErrorCode::cancelled);
}

Task<> a_drain_that_is_stopped_stops_its_tasks() {
    Condition never;
    std::vector<std::string> notes;
    std::size_t left = 99;
    TaskGroup outer(co_await asio::this_coro::executor);
    outer.spawn(drain_two(never, notes, left), "outer");
    co_await yield();
    co_await outer.stop();
    EXPECT_EQ(left, 0U);
    EXPECT_EQ(notes, (std::vector<std::string>{"Cancelled", "Cancelled"}));
}

TEST(TaskGroup, ADrainThatIsStoppedStopsItsTasks) {
    run(a_drain_that_is_stopped_stops_its_tasks());
}

Task<> drains() {
    std::vector<int> done;
    TaskGroup group(co_await asio::this_coro::executor);
    const auto note = [](std::vector<int>& notes) -> Task<> {
        co_await yield();
        notes.push_back(1);
    };
    group.spawn(note(done), "one");
    group.spawn(note(done), "two");
    co_await group.drain();
    EXPECT_EQ(done.size(), 2U);
}

TEST(TaskGroup, DrainWaitsForAll) {
    run(drains());
}

Task<> a_stop_that_is_stopped_still_joins() {
    Condition release;
    bool ended = false;
    TaskGroup outer(co_await asio::this_coro::executor);
    outer.spawn(stop_a_slow_group(release, ended), "outer");
    co_await yield();
    TaskGroup helper(co_await asio::this_coro::executor);
    helper.spawn(notify_soon(release), "helper");
    co_await outer.stop();
    EXPECT_TRUE(ended);
    co_await helper.join(after(seconds(10)));
}

TEST(TaskGroup, AStopThatIsStoppedStillJoins) {
    run(a_stop_that_is_stopped_still_joins());
}

TEST(TaskGroup, AStoppedTaskCanStopItsOwnGroup) {
    run(a_stopped_task_can_stop_its_own_group());
}

Task<> fail_at_once() {
    throw Error(ErrorCode::no_space, "no room");
    co_return;
}

Task<> failures_are_logged() {
    std::vector<std::string> lines;
    set_log_sink([&lines](LogLevel level, std::string_view message, const LogFields&) {
        lines.push_back(std::string(name(level)) + ": " + std::string(message));
    });
    TaskGroup group(co_await asio::this_coro::executor);
    group.spawn(fail_at_once(), "copying");
    co_await group.join(after(seconds(10)));
    set_log_sink(log_to_stderr);
    EXPECT_EQ(lines, std::vector<std::string>{"err: copying failed: no room"});
}

TEST(TaskGroup, FailuresAreLogged) {
    run(failures_are_logged());
}

Task<> join_has_a_limit() {
    Condition never;
    std::vector<std::string> notes;
    TaskGroup group(co_await asio::this_coro::executor);
    group.spawn(wait_long(never, notes), "a task that does not end");
    std::string text;
    try {
        co_await group.join(after(std::chrono::milliseconds(20)));
    } catch (const Error& error) {
        text = error.what();
    }
    EXPECT_EQ(text, "timed out waiting for a task that does not end");
    co_await group.stop();
}

TEST(TaskGroup, JoinHasALimit) {
    run(join_has_a_limit());
}

}  // namespace
}  // namespace volchain::async::task_group_test
