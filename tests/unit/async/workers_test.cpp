// SPDX-License-Identifier: MIT
#include "async/workers.h"

#include <gtest/gtest.h>

#include <thread>

#include "base/error.h"
#include "support/run_task.h"

namespace volchain::async::workers_test {
namespace {

Task<> results_and_failures() {
    Workers workers(2);
    const auto here = std::this_thread::get_id();
    auto value = [here] { return std::this_thread::get_id() != here ? std::string("elsewhere") : "here"; };
    EXPECT_EQ(co_await workers.run(std::move(value)), "elsewhere");
    EXPECT_EQ(std::this_thread::get_id(), here);

    bool ran = false;
    auto nothing = [&ran] { ran = true; };
    co_await workers.run(std::move(nothing));
    EXPECT_TRUE(ran);

    std::string text;
    auto failing = [] { throw Error(ErrorCode::no_space, "no room"); };
    try {
        co_await workers.run(std::move(failing));
    } catch (const Error& error) {
        text = error.what();
    }
    EXPECT_EQ(text, "no room");

    auto movable = [owned = std::make_unique<int>(3)]() mutable { return std::move(owned); };
    EXPECT_EQ(*co_await workers.run(std::move(movable)), 3);
}

TEST(Workers, ResultsAndFailuresComeBack) {
    run(results_and_failures());
}

}  // namespace
}  // namespace volchain::async::workers_test
