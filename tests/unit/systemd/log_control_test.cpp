// SPDX-License-Identifier: MIT
#include "systemd/log_control.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "bus_helpers.h"
#include "private_bus.h"
#include "support/run_task.h"

namespace volchain::systemd::log_control_test {
namespace {

using async::run;
using async::Task;
using bus::soon;
using bus::Variant;

constexpr const char* interface = "org.freedesktop.LogControl1";
constexpr const char* path = "/org/freedesktop/LogControl1";

/// Puts the log back as it was.
class LogControlTest : public testing::Test {
  protected:
    void TearDown() override {
        set_log_level(level_);
        set_log_sink(log_to_stderr);
    }

  private:
    LogLevel level_ = log_level();
};

Task<> set(bus::Connection& caller, const std::string& property, const Variant& value) {
    const bus::Proxy properties(caller, "org.volchain1", path, "org.freedesktop.DBus.Properties");
    return properties.call("Set", soon(), interface, property, value);
}

Task<> control() {
    const auto bus = co_await bus::PrivateBus::start();
    const auto connection = bus->connect();
    const LogControl log_control(*connection, "volchaind", LogTarget::console);
    co_await connection->request_name("org.volchain1", soon());

    const std::vector<std::string> get{"get-property", "org.volchain1", path, interface};
    auto all = get;
    for (const char* property : {"LogLevel", "LogTarget", "SyslogIdentifier"}) all.emplace_back(property);
    auto shown = co_await bus->busctl(all);
    EXPECT_EQ(shown.output, "s \"info\"\ns \"console\"\ns \"volchaind\"\n") << shown.errors;

    std::vector<std::string> debug{"set-property", "org.volchain1", path, interface, "LogLevel", "s",
                                   "debug"};
    const auto done = co_await bus->busctl(std::move(debug));
    EXPECT_EQ(done.status.code, 0) << done.errors;
    EXPECT_EQ(log_level(), LogLevel::debug);

    const auto client = bus->connect();
    co_await set(*client, "LogTarget", "journal");
    shown = co_await bus->busctl(all);
    EXPECT_EQ(shown.output, "s \"debug\"\ns \"journal\"\ns \"volchaind\"\n") << shown.errors;

    auto failure = co_await bus::failure_of(set(*client, "LogLevel", "chatty"));
    EXPECT_EQ(bus::remote_name_of(failure), "org.freedesktop.DBus.Error.InvalidArgs");
    failure = co_await bus::failure_of(set(*client, "LogTarget", "kmsg"));
    EXPECT_EQ(bus::remote_name_of(failure), "org.freedesktop.DBus.Error.InvalidArgs");
    failure = co_await bus::failure_of(set(*client, "SyslogIdentifier", "x"));
    EXPECT_EQ(bus::remote_name_of(failure), "org.freedesktop.DBus.Error.PropertyReadOnly");
    failure = co_await bus::failure_of(set(*client, "LogLevel", Variant(7)));
    EXPECT_NE(failure, nullptr);
    EXPECT_EQ(log_level(), LogLevel::debug);
}

TEST_F(LogControlTest, ShowsAndSets) {
    run(control());
}

Task<> unprivileged() {
    const auto bus = co_await bus::PrivateBus::start();
    const auto connection = bus->connect();
    const LogControl log_control(*connection, "volchaind", LogTarget::console);
    co_await connection->request_name("org.volchain1", soon());
    const auto user = bus->connect(bus::nobody);
    const auto before = log_level();
    const auto failure = co_await bus::failure_of(set(*user, "LogLevel", "debug"));
    EXPECT_EQ(bus::remote_name_of(failure), "org.freedesktop.DBus.Error.AccessDenied");
    EXPECT_EQ(log_level(), before);
    const bus::Proxy shown(*user, "org.volchain1", path, interface);
    const auto target = co_await shown.property<std::string>("LogTarget", soon());
    EXPECT_EQ(target, "console");
}

TEST_F(LogControlTest, OnlyThePrivilegedMaySet) {
    if (::geteuid() != 0) GTEST_SKIP() << "not root: calls of other users cannot be made";
    run(unprivileged());
}

}  // namespace
}  // namespace volchain::systemd::log_control_test
