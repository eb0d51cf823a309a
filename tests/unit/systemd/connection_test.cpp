// SPDX-License-Identifier: MIT
#include "systemd/bus_connection.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <cstdlib>
#include <optional>

#include "async/condition.h"
#include "async/one_shot.h"
#include "async/task_group.h"
#include "bus_helpers.h"
#include "private_bus.h"
#include "support/run_task.h"
#include "systemd/bus_error.h"
#include "systemd/proxy.h"

namespace volchain::bus::connection_test {
namespace {

using async::after;
using async::Clock;
using async::Executor;
using async::run;
using async::Task;
using std::chrono::milliseconds;
using std::chrono::seconds;
namespace asio = boost::asio;

// --- calls ---------------------------------------------------------------------------------------

Task<> call_and_errors() {
    const auto bus = co_await PrivateBus::start();
    const auto connection = bus->connect();
    const Proxy driver = driver_of(*connection);
    EXPECT_TRUE(connection->unique_name().starts_with(":1."));
    const auto owner = co_await driver.call<std::string>("GetNameOwner", soon(), connection->unique_name());
    EXPECT_EQ(owner, connection->unique_name());

    auto none = driver.call<std::string>("GetNameOwner", soon(), "org.volchain1");
    auto failure = co_await failure_of(std::move(none));
    EXPECT_EQ(remote_name_of(failure), "org.freedesktop.DBus.Error.NameHasNoOwner");
    EXPECT_EQ(code_of(failure), ErrorCode::unreachable);

    auto other_type = driver.call<std::uint32_t>("GetNameOwner", soon(), connection->unique_name());
    failure = co_await failure_of(std::move(other_type));
    EXPECT_EQ(code_of(failure), ErrorCode::invalid_argument);

    const auto features = co_await driver.property<std::vector<std::string>>("Features", soon());
    (void)features;
    auto no_such = driver.property<std::uint32_t>("Features", soon());
    failure = co_await failure_of(std::move(no_such));
    EXPECT_EQ(code_of(failure), ErrorCode::invalid_argument);
}

TEST(Connection, CallsAndTheirErrors) {
    run(call_and_errors());
}

Task<> no_bus() {
    const Executor executor = co_await asio::this_coro::executor;
    (void)::setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent/volchain/socket", 1);
    try {
        (void)Connection::open_system(executor).unique_name();
        ADD_FAILURE() << "connected to nothing";
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::unreachable);
        EXPECT_STREQ(error.what(), "cannot connect to the system bus: No such file or directory");
    }
    (void)::unsetenv("DBUS_SYSTEM_BUS_ADDRESS");
}

TEST(Connection, NoBusIsUnreachable) {
    run(no_bus());
}

/// A peer that reads and never answers: a match on everything, and no object.
int swallow(sd_bus_message*, void*, sd_bus_error*) {
    return 1;
}

Task<> timeout_in_time() {
    const auto bus = co_await PrivateBus::start();
    const auto silent = bus->connect();
    sd_bus_slot* slot = nullptr;
    EXPECT_GE(sd_bus_add_object(silent->native(), &slot, "/silent", swallow, nullptr), 0);
    const Slot object(slot);
    co_await silent->request_name("org.volchain1", soon());
    const auto caller = bus->connect();
    const Proxy peer(*caller, "org.volchain1", "/silent", "x.y");
    const auto begin = Clock::now();
    auto call = peer.call("Never", after(milliseconds(200)));
    const auto failure = co_await failure_of(std::move(call));
    EXPECT_EQ(code_of(failure), ErrorCode::timeout);
    EXPECT_STREQ(to_error(failure).what(), "timed out waiting for the answer of org.volchain1 to x.y.Never");
    EXPECT_GE(Clock::now() - begin, milliseconds(200));
    EXPECT_LT(Clock::now() - begin, seconds(5)) << "not when something else happens on the bus";
}

TEST(Connection, ATimeoutFiresWhileNothingElseHappens) {
    run(timeout_in_time());
}

Task<> count_call(const Proxy& driver, std::size_t& answered) {
    const auto id = co_await driver.call<std::string>("GetId", soon());
    EXPECT_EQ(id.size(), 32U);
    ++answered;
}

Task<> many_calls() {
    const auto bus = co_await PrivateBus::start();
    const auto connection = bus->connect();
    const Proxy driver = driver_of(*connection);
    std::size_t answered = 0;
    async::TaskGroup group(co_await asio::this_coro::executor);
    for (int i = 0; i < 100; ++i) group.spawn(count_call(driver, answered), "a call");
    co_await group.join(soon());
    EXPECT_EQ(answered, 100U);
}

TEST(Connection, ManyCallsAtOnce) {
    run(many_calls());
}

/// sd-bus asks for a buffer of 8 MiB, too much to be filled in every test.
void shrink_buffer(const Connection& connection) {
    constexpr int size = 65536;
    const int fd = sd_bus_get_fd(connection.native());
    EXPECT_EQ(::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size), 0);
}
constexpr std::size_t too_much = std::size_t{1} << 20;

Task<> more_than_the_socket_takes() {
    const auto bus = co_await PrivateBus::start();
    const auto sender = bus->connect();
    const auto receiver = bus->connect();
    std::vector<std::size_t> received;
    async::Condition more;
    const Subscription watch =
        receiver->subscribe("type='signal',interface='x.y'", [&](const Message& message) {
            received.push_back(std::get<0>(read_body<std::tuple<std::vector<std::uint8_t>>>(message)).size());
            more.notify();
        });
    // The match is in place when a later call of the receiver has been answered.
    (void)co_await driver_of(*receiver).call<std::string>("GetId", soon());

    bus->freeze();
    shrink_buffer(*sender);
    constexpr std::size_t count = 3;
    for (std::size_t i = 0; i < count; ++i) {
        Message signal = sender->signal("/x", "x.y", "Big");
        append(signal, std::vector<std::uint8_t>(too_much + i));
        sender->send(signal);
    }
    auto blocked = sender->flush(after(milliseconds(100)));
    const auto failure = co_await failure_of(std::move(blocked));
    EXPECT_EQ(code_of(failure), ErrorCode::timeout);
    bus->thaw();
    co_await sender->flush(soon());
    while (received.size() < count) co_await more.wait(soon(), "the signals");
    for (std::size_t i = 0; i < count; ++i) EXPECT_EQ(received[i], too_much + i);
}

Task<> keep_failure(Task<Message> call, std::exception_ptr& failure) {
    try {
        (void)co_await std::move(call);
    } catch (...) {
        failure = std::current_exception();
    }
}

Task<> call_that_the_socket_does_not_take() {
    const auto bus = co_await PrivateBus::start();
    const auto caller = bus->connect();
    (void)co_await driver_of(*caller).call<std::string>("GetId", soon());  // nothing is under way any more
    bus->freeze();
    shrink_buffer(*caller);
    Message request =
        caller->method_call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "GetId");
    append(request, std::vector<std::uint8_t>(too_much));
    std::exception_ptr failure;
    async::TaskGroup group(co_await asio::this_coro::executor);
    group.spawn(keep_failure(caller->call(std::move(request), soon()), failure), "the call");
    for (int i = 0; i < 10; ++i) co_await async::yield();
    bus->thaw();
    co_await group.join(soon());
    EXPECT_EQ(remote_name_of(failure), "org.freedesktop.DBus.Error.InvalidArgs");
}

TEST(Connection, ACallThatTheSocketDoesNotTakeIsMadeAllTheSame) {
    run(call_that_the_socket_does_not_take());
}

TEST(Connection, WhatTheSocketDoesNotTakeIsSentLater) {
    run(more_than_the_socket_takes());
}

TEST(Connection, MessagesThatTheBusWouldNotTakeAreRefused) {
    const auto too_large = []() -> Task<> {
        const auto bus = co_await PrivateBus::start();
        const auto connection = bus->connect();
        Message signal = connection->signal("/x", "x.y", "Big");
        EXPECT_THROW(append(signal, std::vector<std::uint8_t>(Message::max_body_bytes + 1)), Error);
        const std::string line(60'000, 'x');
        const std::vector<std::string> lines(Message::max_body_bytes / line.size() + 1, line);
        const std::vector<ObjectPath> paths(lines.size(), ObjectPath("/" + line));
        Message lines_signal = connection->signal("/x", "x.y", "Lines");
        EXPECT_THROW(append(lines_signal, lines), Error);
        Message paths_signal = connection->signal("/x", "x.y", "Paths");
        EXPECT_THROW(append(paths_signal, paths), Error);
    };
    run(too_large());
}

// --- the end -------------------------------------------------------------------------------------

/// A call that nobody will answer.
Task<Message> endless_call(Connection& connection, Connection& silent) {
    return connection.call(connection.method_call(silent.unique_name(), "/", "x.y", "Never"),
                           async::no_deadline);
}

Task<> bus_killed() {
    const Executor executor = co_await asio::this_coro::executor;
    const auto bus = co_await PrivateBus::start();
    const auto silent = bus->connect();
    const auto connection = bus->connect();
    sd_bus_slot* slot = nullptr;
    EXPECT_GE(sd_bus_add_fallback(silent->native(), &slot, "/", swallow, nullptr), 0);
    const Slot object(slot);
    co_await silent->request_name("org.volchain1", soon());

    std::exception_ptr pending;
    async::TaskGroup group(executor);
    group.spawn(keep_failure(endless_call(*connection, *silent), pending), "the pending call");
    (void)co_await driver_of(*connection).call<std::string>("GetId", soon());
    EXPECT_EQ(group.size(), 1U);

    async::OneShot<std::string> lost;
    int told = 0;
    connection->on_lost([&](const std::string& reason) {
        ++told;
        (void)lost.deliver(reason);
    });
    bus->kill();
    const std::string reason = co_await lost.wait(soon(), "the end of the connection");
    EXPECT_TRUE(reason.starts_with("the connection to the message bus was lost: ")) << reason;
    co_await group.join(soon());
    EXPECT_EQ(code_of(pending), ErrorCode::unreachable);

    auto another = driver_of(*connection).call<std::string>("GetId", soon());
    const auto failure = co_await failure_of(std::move(another));
    EXPECT_EQ(code_of(failure), ErrorCode::unreachable);
    EXPECT_THROW(connection->send(connection->signal("/x", "x.y", "Z")), Error);
    co_await connection->flush(soon());
    for (int i = 0; i < 10; ++i) co_await async::yield();
    EXPECT_EQ(told, 1);
}

TEST(Connection, ABusThatGoesIsToldOnceAndFailsWhatIsPending) {
    run(bus_killed());
}

Task<> owner_destroys_connection() {
    const auto bus = co_await PrivateBus::start();
    auto connection = bus->connect();
    async::OneShot<bool> gone;
    connection->on_lost([&](const std::string&) {
        connection.reset();
        (void)gone.deliver(true);
    });
    bus->kill();
    (void)co_await gone.wait(soon(), "the end of the connection");
    co_await async::yield();
}

TEST(Connection, TheOwnerMayDestroyItWhenItIsLost) {
    run(owner_destroys_connection());
}

Task<> destroyed_with_pending_call() {
    const Executor executor = co_await asio::this_coro::executor;
    const auto bus = co_await PrivateBus::start();
    const auto silent = bus->connect();
    sd_bus_slot* slot = nullptr;
    EXPECT_GE(sd_bus_add_fallback(silent->native(), &slot, "/", swallow, nullptr), 0);
    const Slot object(slot);
    co_await silent->request_name("org.volchain1", soon());
    auto connection = bus->connect();
    std::exception_ptr failure;
    async::TaskGroup group(executor);
    group.spawn(keep_failure(endless_call(*connection, *silent), failure), "the pending call");
    (void)co_await driver_of(*connection).call<std::string>("GetId", soon());
    connection.reset();
    co_await group.join(soon());
    EXPECT_EQ(code_of(failure), ErrorCode::unreachable);
}

TEST(Connection, DestroyedWithAPendingCall) {
    run(destroyed_with_pending_call());
}

Task<> cancelled_call() {
    const Executor executor = co_await asio::this_coro::executor;
    const auto bus = co_await PrivateBus::start();
    const auto connection = bus->connect();
    bus->freeze();
    std::exception_ptr failure;
    async::TaskGroup group(executor);
    Message request = connection->method_call("org.freedesktop.DBus", "/org/freedesktop/DBus",
                                              "org.freedesktop.DBus", "GetId");
    group.spawn(keep_failure(connection->call(std::move(request), async::no_deadline), failure), "the call");
    co_await async::yield();
    co_await group.stop();
    EXPECT_EQ(code_of(failure), ErrorCode::cancelled);
    bus->thaw();
    // The answer that still comes finds nobody and does no harm.
    (void)co_await driver_of(*connection).call<std::string>("GetId", soon());
}

TEST(Connection, ACallThatIsCancelledForgetsItsAnswer) {
    run(cancelled_call());
}

// --- names and matches ---------------------------------------------------------------------------

Task<> names() {
    const auto bus = co_await PrivateBus::start();
    const auto first = bus->connect();
    const auto second = bus->connect();
    co_await first->request_name("org.volchain1", soon());
    co_await first->request_name("org.volchain1", soon());
    auto taken = second->request_name("org.volchain1", soon());
    auto failure = co_await failure_of(std::move(taken));
    EXPECT_EQ(code_of(failure), ErrorCode::busy);
    auto forbidden = second->request_name("org.example.NotOurs", soon());
    failure = co_await failure_of(std::move(forbidden));
    EXPECT_EQ(remote_name_of(failure), "org.freedesktop.DBus.Error.AccessDenied");
    EXPECT_EQ(code_of(failure), ErrorCode::access_denied);
}

TEST(Connection, NamesAreOursOrNot) {
    run(names());
}

Task<> watch() {
    const auto bus = co_await PrivateBus::start();
    const auto watcher = bus->connect();
    std::vector<std::string> owners;
    async::Condition changed;
    const Subscription subscription = watcher->watch_name("org.volchain1", [&](const std::string& owner) {
        owners.push_back(owner);
        changed.notify();
    });
    while (owners.empty()) co_await changed.wait(soon(), "the first owner");
    auto owner = bus->connect();
    const std::string name = owner->unique_name();
    co_await owner->request_name("org.volchain1", soon());
    while (owners.size() < 2) co_await changed.wait(soon(), "the second owner");
    owner.reset();
    while (owners.size() < 3) co_await changed.wait(soon(), "the third owner");
    EXPECT_EQ(owners, (std::vector<std::string>{"", name, ""}));
    EXPECT_THROW((void)watcher->watch_name("a'b", [](const std::string&) {}), Error);
}

TEST(Connection, WatchNameTellsTheStateAndItsChanges) {
    run(watch());
}

Task<> handlers() {
    const auto bus = co_await PrivateBus::start();
    const auto sender = bus->connect();
    const auto receiver = bus->connect();
    std::vector<int> numbers;
    int once = 0;
    async::Condition more;
    Subscription own_end;
    const Subscription numbered =
        receiver->subscribe("type='signal',interface='x.y'", [&](const Message& message) {
            numbers.push_back(std::get<0>(read_body<std::tuple<int>>(message)));
            more.notify();
        });
    bool thrown = false;
    const Subscription failing =
        receiver->subscribe("type='signal',interface='x.y',member='Count'", [&](const Message&) {
            if (!std::exchange(thrown, true)) throw std::runtime_error("expected in the log");
        });
    own_end = receiver->subscribe("type='signal',interface='x.y',member='Count'", [&](const Message&) {
        own_end = Subscription();
        ++once;
    });
    (void)co_await driver_of(*receiver).call<std::string>("GetId", soon());
    std::vector<int> expected;
    for (int i = 0; i < 200; ++i) {
        Message signal = sender->signal("/x", "x.y", "Count");
        append(signal, i);
        sender->send(signal);
        expected.push_back(i);
    }
    while (numbers.size() < expected.size()) co_await more.wait(soon(), "the signals");
    EXPECT_EQ(numbers, expected);
    EXPECT_EQ(once, 1);
}

TEST(Connection, SignalsComeInOrderWhateverHandlersDo) {
    run(handlers());
}

}  // namespace
}  // namespace volchain::bus::connection_test
