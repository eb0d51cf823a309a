// SPDX-License-Identifier: MIT
#include "daemon/authorization.h"

#include "daemon/publisher.h"
#include "unit/storage/support.h"
#include "unit/systemd/private_bus.h"

namespace volchain::daemon::authorization_test {
namespace {

using async::run;
using async::Task;

Task<> table_is_complete() {
    const auto private_bus = co_await bus::PrivateBus::start();
    const auto connection = private_bus->connect();
    storage::TestEngine engine(co_await async::asio::this_coro::executor);
    Authorization gate(*connection, *engine);
    Publisher publisher(*connection, *engine, gate);
    publisher.publish();
    const auto shown = publisher.objects().methods();
    EXPECT_GT(shown.size(), 10U);
    EXPECT_THAT(authorized_methods(), testing::ElementsAreArray(shown))
        << "a method that is in no row is denied to everybody; a row without a method protects nothing";
    co_await publisher.stop();
    co_await engine->stop();
}

TEST(AuthorizationTable, HasEveryMethodAndNoOther) {
    run(table_is_complete());
}

TEST(AuthorizationTable, ActionsAreOurs) {
    for (const auto& [interface, member] : authorized_methods()) {
        const auto action = action_for(interface, member);
        ASSERT_TRUE(action) << interface << "." << member;
        EXPECT_TRUE(action->starts_with("org.volchain1.")) << *action;
    }
}

TEST(AuthorizationTable, WhatItDoesNotHaveIsNothing) {
    EXPECT_EQ(action_for("org.volchain1.Disk", "Find"), std::nullopt) << "another interface's";
    EXPECT_EQ(action_for("org.volchain1.Manager", "find"), std::nullopt);
    EXPECT_EQ(action_for("org.volchain1.Manager", ""), std::nullopt);
    EXPECT_EQ(action_for("", "Find"), std::nullopt);
    EXPECT_EQ(action_for("org.volchain1.Manager", "Find"), "org.volchain1.look");
}

}  // namespace
}  // namespace volchain::daemon::authorization_test
