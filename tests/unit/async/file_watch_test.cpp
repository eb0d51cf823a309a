// SPDX-License-Identifier: MIT
#include "async/file_watch.h"
#include "support/run_task.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace volchain::async::file_watch_test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

Task<> tells_of_its_file(std::string directory) {
    const Executor executor = co_await asio::this_coro::executor;
    FileWatch watch(executor, directory + "/socket");
    std::ofstream(directory + "/socket") << "x";
    auto start = Clock::now();
    co_await watch.wait(after(seconds(20)));
    EXPECT_LT(Clock::now() - start, seconds(10));

    // Another file does not wake it; the deadline ends the wait without an error.
    std::ofstream(directory + "/other") << "x";
    start = Clock::now();
    co_await watch.wait(after(milliseconds(50)));
    EXPECT_GE(Clock::now() - start, milliseconds(50));

    std::filesystem::rename(directory + "/other", directory + "/socket");
    start = Clock::now();
    co_await watch.wait(after(seconds(20)));
    EXPECT_LT(Clock::now() - start, seconds(10));

    FileWatch nowhere(executor, directory + "/absent/socket");
    start = Clock::now();
    co_await nowhere.wait(after(milliseconds(50)));
    EXPECT_GE(Clock::now() - start, milliseconds(50));
}

TEST(FileWatch, TellsOfItsFile) {
    std::string directory = testing::TempDir() + "volchain-watch-XXXXXX";
    ASSERT_NE(::mkdtemp(directory.data()), nullptr);
    run(tells_of_its_file(directory));
    std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace volchain::async::file_watch_test
