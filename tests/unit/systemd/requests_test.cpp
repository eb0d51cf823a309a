// SPDX-License-Identifier: MIT
#include "systemd/requests.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <set>

#include "async/one_shot.h"
#include "async/task_group.h"
#include "bus_helpers.h"
#include "private_bus.h"
#include "support/run_task.h"
#include "thing_service.h"

namespace volchain::bus::requests_test {
namespace {

using async::run;
using async::Task;
using testing::HasSubstr;

// --- the gate and the object ---------------------------------------------------------------------

Task<> gate() {
    const auto bus = co_await PrivateBus::start();
    ThingService service(*bus);
    co_await service.begin();
    const Uuid id = service.add_thing(5);
    const Proxy thing = service.thing(id);
    Dict unknown_option;
    unknown_option.emplace("colour", "red");

    service.gate.refusal = std::make_exception_ptr(Error(ErrorCode::access_denied, "not you"));
    // Refused before the options are looked at.
    auto denied = thing.call("Resize", soon(), seven, unknown_option);
    auto failure = co_await failure_of(std::move(denied));
    EXPECT_EQ(remote_name_of(failure), "org.freedesktop.DBus.Error.AccessDenied");
    EXPECT_EQ(text_of(failure), "not you");
    EXPECT_EQ(code_of(failure), ErrorCode::access_denied);

    service.gate.refusal = std::make_exception_ptr(Error(ErrorCode::interaction_required, "ask"));
    auto interactive = thing.call("Resize", soon(), seven, Dict());
    failure = co_await failure_of(std::move(interactive));
    EXPECT_EQ(remote_name_of(failure), "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired");
    EXPECT_EQ(code_of(failure), ErrorCode::interaction_required);

    EXPECT_EQ(service.things.sizes.at(id), 5U) << "the handler has not run";
    co_await service.end();
}

TEST(Requests, NothingPassesTheGateUnasked) {
    run(gate());
}

Task<> refused(Task<> call) {
    const auto failure = co_await failure_of(std::move(call));
    EXPECT_EQ(code_of(failure), ErrorCode::access_denied);
}

/// All that can be called is called with empty or zero arguments: the gate hears of each.
Task<> gate_of_all() {
    const auto bus = co_await PrivateBus::start();
    ThingService service(*bus);
    co_await service.begin();
    const Proxy thing = service.thing(service.add_thing(5));
    service.gate.refusal = std::make_exception_ptr(Error(ErrorCode::access_denied, "nobody"));
    co_await refused(service.manager().call("Greet", soon(), ""));
    co_await refused(thing.call("Resize", soon(), seven, Dict()));
    co_await refused(thing.call("Fail", soon(), "", ""));
    for (const char* member : {"State", "FailStrangely", "Who", "Block", "Wait", "Open"})
        co_await refused(thing.call(member, soon()));
    std::set<std::string> all;
    for (const auto& [interface, member] : service.objects.methods()) all.insert(interface + "." + member);
    const std::set<std::string> asked(service.gate.passed.begin(), service.gate.passed.end());
    EXPECT_EQ(asked, all);
    co_await service.end();
}

TEST(Requests, EveryMethodHasTheGateBeforeIt) {
    run(gate_of_all());
}

Task<> take_failure(Task<> call, std::exception_ptr& failure) {
    failure = co_await failure_of(std::move(call));
}

Task<> vanished() {
    const auto bus = co_await PrivateBus::start();
    ThingService service(*bus);
    co_await service.begin();
    const Uuid id = service.add_thing(5);
    service.gate.hold = true;
    std::exception_ptr failure;
    async::TaskGroup group(service.connection->executor());
    group.spawn(take_failure(service.thing(id).call("Resize", soon(), seven, Dict()), failure), "the call");
    while (service.gate.passed.empty()) co_await service.gate.changed.wait(soon(), "the call");
    service.things.sizes.erase(id);
    service.gate.hold = false;
    service.gate.changed.notify();
    co_await group.join(soon());
    EXPECT_EQ(code_of(failure), ErrorCode::not_found);
    EXPECT_EQ(text_of(failure), object_path(thing_prefix, id).str() + " is gone");
    co_await service.end();
}

TEST(Requests, AnObjectThatVanishesWhileTheGateThinksIsNotFound) {
    run(vanished());
}

// --- errors --------------------------------------------------------------------------------------

Task<> errors() {
    const auto bus = co_await PrivateBus::start();
    ThingService service(*bus);
    co_await service.begin();
    const Proxy thing = service.thing(service.add_thing(5));
    for (int i = 0; i <= static_cast<int>(ErrorCode::internal); ++i) {
        const auto code = static_cast<ErrorCode>(i);
        auto call = thing.call("Fail", soon(), name(code), "what failed, and why");
        const auto failure = co_await failure_of(std::move(call));
        EXPECT_EQ(code_of(failure), code) << name(code);
        EXPECT_EQ(text_of(failure), "what failed, and why");
    }
    auto strange = thing.call("FailStrangely", soon());
    const auto failure = co_await failure_of(std::move(strange));
    EXPECT_EQ(code_of(failure), ErrorCode::internal);
    EXPECT_EQ(text_of(failure), "not even an Error, \xEF\xBF\xBD");

    std::vector<std::string> arguments{"call",
                                       "org.volchain1",
                                       object_path(thing_prefix, service.add_thing(1)).str(),
                                       thing_interface,
                                       "Fail",
                                       "ss",
                                       "NoSpace",
                                       "the pool is full"};
    const auto by_hand = co_await bus->busctl(std::move(arguments));
    EXPECT_THAT(by_hand.errors, HasSubstr("the pool is full"));
    co_await service.end();
}

TEST(Requests, ErrorsHaveNamesOnTheWire) {
    run(errors());
}

TEST(BusError, NamesOfErrorReplies) {
    const auto reply = [](ErrorCode code) {
        return error_reply(std::make_exception_ptr(Error(code, "x"))).name;
    };
    EXPECT_EQ(reply(ErrorCode::no_space), "org.volchain1.Error.NoSpace");
    EXPECT_EQ(reply(ErrorCode::internal), "org.volchain1.Error.Internal");
    EXPECT_EQ(reply(ErrorCode::access_denied), "org.freedesktop.DBus.Error.AccessDenied");
    EXPECT_EQ(reply(ErrorCode::interaction_required),
              "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired");
    EXPECT_EQ(RemoteError("org.example.Error.Odd", "x").code(), ErrorCode::internal);
    EXPECT_EQ(RemoteError("org.freedesktop.DBus.Error.Timeout", "x").code(), ErrorCode::timeout);
}

// --- callers -------------------------------------------------------------------------------------

Task<> caller() {
    const auto bus = co_await PrivateBus::start();
    ThingService service(*bus);
    co_await service.begin();
    const std::string path = object_path(thing_prefix, service.add_thing(5)).str();
    const std::vector<std::string> who{"call", "org.volchain1", path, thing_interface, "Who"};
    const auto ours = co_await bus->busctl(who);
    EXPECT_EQ(ours.output, fmt::format("u {}\n", ::geteuid())) << ours.errors;
    if (::geteuid() == 0) {
        const auto others = co_await bus->busctl(who, nobody);
        EXPECT_EQ(others.output, fmt::format("u {}\n", nobody)) << others.errors;
    }
    co_await service.end();
}

TEST(Requests, TheCallersUserIsKnown) {
    if (::geteuid() != 0) GTEST_LOG_(WARNING) << "not root: calls of other users are not tested";
    run(caller());
}

Task<> no_reply_wanted() {
    const auto bus = co_await PrivateBus::start();
    ThingService service(*bus);
    co_await service.begin();
    const Uuid id = service.add_thing(5);
    const std::string path = object_path(thing_prefix, id).str();
    Message request = service.client->method_call("org.volchain1", path, thing_interface, "Resize");
    append(request, seven);
    append(request, Dict());
    service.client->send(request);
    Message failing = service.client->method_call("org.volchain1", path, thing_interface, "FailStrangely");
    service.client->send(failing);
    while (service.gate.passed.size() < 2) co_await service.gate.changed.wait(soon(), "the calls");
    (void)co_await service.thing(id).call<std::uint32_t>("Who", soon());
    EXPECT_EQ(service.things.sizes.at(id), 7U);
    co_await service.end();
}

TEST(Requests, ACallWithoutAReplyIsServed) {
    run(no_reply_wanted());
}

// --- limits --------------------------------------------------------------------------------------

/// What became of many calls: "done" or the name of an error, and how often.
class Ends {
  public:
    void add(const std::string& end) {
        ++counts_[end];
        changed_.notify();
    }
    [[nodiscard]] int of(const std::string& end) const {
        const auto found = counts_.find(end);
        return found == counts_.end() ? 0 : found->second;
    }
    Task<> reach(std::string end, int count) {
        while (of(end) < count) co_await changed_.wait(soon(), "the end of calls");
    }

  private:
    std::map<std::string, int> counts_;
    async::Condition changed_;
};

Task<> count_end(Task<> call, Ends& ends) {
    std::string end = "done";
    try {
        co_await std::move(call);
    } catch (const RemoteError& error) {
        end = error.error_name();
    } catch (const Error& error) {
        end = name(error.code());
    }
    ends.add(end);
}

constexpr const char* limits_exceeded = "org.freedesktop.DBus.Error.LimitsExceeded";

Task<> per_sender() {
    const auto bus = co_await PrivateBus::start();
    Limits limits;
    limits.waiting_per_sender = 30;
    ThingService service(*bus, limits);
    co_await service.begin();
    const Uuid id = service.add_thing(5);
    const Proxy thing = service.thing(id);
    Ends ends;
    async::TaskGroup group(service.connection->executor());
    for (int i = 0; i < 70; ++i) group.spawn(count_end(thing.call("Block", soon()), ends), "a call");
    for (int i = 0; i < 33; ++i) group.spawn(count_end(thing.call("Wait", soon()), ends), "a call");
    co_await ends.reach(limits_exceeded, 9);
    co_await service.things.reach_blocked(94);
    EXPECT_EQ(service.things.blocked, 94);

    // Properties are still read, and others are served.
    const auto size = co_await thing.property<std::uint64_t>("SizeBytes", soon());
    EXPECT_EQ(size, 5U);
    const auto other = bus->connect();
    const Proxy of_other(*other, "org.volchain1", object_path(thing_prefix, id).str(), thing_interface);
    (void)co_await of_other.call<std::uint32_t>("Who", soon());

    service.things.release();
    co_await group.join(soon());
    EXPECT_EQ(ends.of("done"), 94);
    EXPECT_EQ(ends.of(limits_exceeded), 9);
    (void)co_await thing.call<std::uint32_t>("Who", soon());
    co_await service.end();
}

TEST(Requests, OneCallerCannotHaveMoreThanItsLimit) {
    run(per_sender());
}

Task<> in_total() {
    const auto bus = co_await PrivateBus::start();
    Limits limits;
    limits.total = 4;
    limits.per_sender = 8;
    ThingService service(*bus, limits);
    co_await service.begin();
    const Uuid id = service.add_thing(5);
    const Proxy thing = service.thing(id);
    Ends ends;
    async::TaskGroup group(service.connection->executor());
    // Deferred calls do not count: four more go through, and no fifth.
    for (int i = 0; i < 3; ++i) group.spawn(count_end(thing.call("Wait", soon()), ends), "a call");
    for (int i = 0; i < 5; ++i) group.spawn(count_end(thing.call("Block", soon()), ends), "a call");
    co_await ends.reach(limits_exceeded, 1);
    co_await service.things.reach_blocked(7);

    // Whoever has nothing running is served all the same, once.
    const auto other = bus->connect();
    const Proxy of_other(*other, "org.volchain1", object_path(thing_prefix, id).str(), thing_interface);
    (void)co_await of_other.call<std::uint32_t>("Who", soon());
    group.spawn(count_end(of_other.call("Wait", soon()), ends), "a call");
    co_await service.things.reach_blocked(8);
    auto second = of_other.call<std::uint32_t>("Who", soon());
    const auto failure = co_await failure_of(std::move(second));
    EXPECT_EQ(remote_name_of(failure), limits_exceeded);

    service.things.release();
    co_await group.join(soon());
    EXPECT_EQ(ends.of("done"), 8);
    co_await service.end();
}

TEST(Requests, AllCallersTogetherCannotHaveMoreThanTheLimit) {
    run(in_total());
}

// --- the end -------------------------------------------------------------------------------------

Task<> stopping() {
    const auto bus = co_await PrivateBus::start();
    ThingService service(*bus);
    co_await service.begin();
    const Uuid id = service.add_thing(5);
    const Proxy thing = service.thing(id);
    Ends ends;
    async::TaskGroup group(service.connection->executor());
    for (int i = 0; i < 3; ++i) group.spawn(count_end(thing.call("Wait", soon()), ends), "a call");
    co_await service.things.reach_blocked(3);
    co_await service.end();
    co_await group.join(soon());
    EXPECT_EQ(ends.of("Cancelled"), 3) << "they are answered";
    auto late = thing.call("Who", soon());
    const auto failure = co_await failure_of(std::move(late));
    EXPECT_EQ(code_of(failure), ErrorCode::cancelled);
}

TEST(Requests, StopAnswersWhatWaits) {
    run(stopping());
}

Task<> bus_lost_while_serving() {
    const auto bus = co_await PrivateBus::start();
    ThingService service(*bus);
    co_await service.begin();
    const Proxy thing = service.thing(service.add_thing(5));
    Ends ends;
    async::TaskGroup group(service.connection->executor());
    group.spawn(count_end(thing.call("Block", soon()), ends), "a call");
    co_await service.things.reach_blocked(1);
    async::OneShot<bool> lost;
    service.connection->on_lost([&](const std::string&) { (void)lost.deliver(true); });
    service.client->on_lost([](const std::string&) {});
    bus->kill();
    (void)co_await lost.wait(soon(), "the end of the connection");
    service.things.release();  // its reply finds no bus
    co_await group.join(soon());
    co_await service.end();
    EXPECT_EQ(ends.of("org.freedesktop.DBus.Error.NoReply") + ends.of("Unreachable"), 1);
    service.objects.emit(root_path, manager_interface, "Finished", ObjectPath(), std::string("late"));
}

TEST(Requests, ABusLostInTheMiddle) {
    run(bus_lost_while_serving());
}

}  // namespace
}  // namespace volchain::bus::requests_test
