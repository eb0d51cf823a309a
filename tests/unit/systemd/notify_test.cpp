// SPDX-License-Identifier: MIT
#include "systemd/notify.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <boost/asio/local/datagram_protocol.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cerrno>
#include <cstdlib>
#include <filesystem>

#include "async/deadline.h"
#include "async/task_group.h"
#include "base/error.h"
#include "support/run_task.h"

namespace volchain::systemd::notify_test {
namespace {

using async::run;
using async::Task;
using std::chrono::milliseconds;
using std::chrono::seconds;
namespace asio = boost::asio;

/// The service manager's end of NOTIFY_SOCKET.
class FakeManager {
  public:
    explicit FakeManager(const async::Executor& executor) : socket_(executor) {
        std::string name = (std::filesystem::temp_directory_path() / "volchain-notify-XXXXXX").string();
        if (::mkdtemp(name.data()) == nullptr) throw system_error(errno, "cannot make a directory");
        directory_ = name;
        const std::string path = (directory_ / "notify").string();
        socket_.open();
        socket_.bind(asio::local::datagram_protocol::endpoint(path));
        (void)::setenv("NOTIFY_SOCKET", path.c_str(), 1);
    }
    FakeManager(const FakeManager&) = delete;
    FakeManager& operator=(const FakeManager&) = delete;
    ~FakeManager() {
        for (const char* variable : {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"})
            (void)::unsetenv(variable);
        std::error_code ignored;
        std::filesystem::remove_all(directory_, ignored);
    }

    Task<std::string> next() {
        std::array<char, 256> text{};
        auto receive = socket_.async_receive(asio::buffer(text), asio::use_awaitable);
        const auto size =
            co_await async::with_deadline(std::move(receive), async::after(seconds(20)), "a notification");
        co_return std::string(text.data(), size);
    }

  private:
    std::filesystem::path directory_;
    asio::local::datagram_protocol::socket socket_;
};

Task<> states() {
    FakeManager manager(co_await asio::this_coro::executor);
    notify_status("recovering 3 jobs\nREADY=1");
    notify_extend_timeout(seconds(30));
    notify_ready();
    notify_stopping();
    std::vector<std::string> told;
    for (int i = 0; i < 4; ++i) told.push_back(co_await manager.next());
    EXPECT_THAT(told, testing::ElementsAre("STATUS=recovering 3 jobs READY=1", "EXTEND_TIMEOUT_USEC=30000000",
                                           "READY=1", "STOPPING=1"));
}

TEST(Notify, TellsTheServiceManager) {
    run(states());
}

TEST(Notify, NothingWhereThereIsNoServiceManager) {
    (void)::unsetenv("NOTIFY_SOCKET");
    notify_ready();
    notify_status("alone");
}

Task<> watchdog() {
    const auto executor = co_await asio::this_coro::executor;
    FakeManager manager(executor);
    (void)::setenv("WATCHDOG_USEC", "100000", 1);
    (void)::setenv("WATCHDOG_PID", std::to_string(::getpid()).c_str(), 1);
    async::TaskGroup group(executor);
    const auto begin = async::Clock::now();
    group.spawn(run_watchdog(), "the watchdog");
    for (int i = 0; i < 4; ++i) {
        const std::string told = co_await manager.next();
        EXPECT_EQ(told, "WATCHDOG=1");
    }
    EXPECT_GE(async::Clock::now() - begin, milliseconds(150)) << "three intervals of half the limit";
    EXPECT_EQ(group.size(), 1U);
    co_await group.stop();
}

TEST(Watchdog, IsFedFromTheEventLoop) {
    run(watchdog());
}

Task<> no_watchdog() {
    const auto executor = co_await asio::this_coro::executor;
    FakeManager manager(executor);
    co_await run_watchdog();
    (void)::setenv("WATCHDOG_USEC", "100000", 1);
    (void)::setenv("WATCHDOG_PID", "1", 1);  // meant for another process
    co_await run_watchdog();
    (void)::setenv("WATCHDOG_USEC", "often", 1);
    (void)::setenv("WATCHDOG_PID", std::to_string(::getpid()).c_str(), 1);
    co_await run_watchdog();
}

TEST(Watchdog, EndsAtOnceWhereThereIsNone) {
    run(no_watchdog());
}

}  // namespace
}  // namespace volchain::systemd::notify_test
