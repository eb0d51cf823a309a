// SPDX-License-Identifier: MIT
#include "systemd/polkit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "async/task_group.h"
#include "bus_helpers.h"
#include "private_bus.h"
#include "support/run_task.h"
#include "thing_service.h"

namespace volchain::bus::polkit_test {
namespace {

using async::run;
using async::Task;
using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::HasSubstr;

constexpr const char* authority_path = "/org/freedesktop/PolicyKit1/Authority";
constexpr const char* authority = "org.freedesktop.PolicyKit1.Authority";

/// Lets everybody in.
class OpenGate : public Gate {
  public:
    Task<> authorize(Call) override { co_return; }
};

/// An Authority that answers as the test says and remembers what it was asked.
class FakePolkit {
  public:
    using Subject = std::pair<std::string, Dict>;
    using Details = std::map<std::string, std::string>;
    using Result = std::tuple<bool, bool, Details>;

    explicit FakePolkit(PrivateBus& bus) : connection_(bus.connect()), objects_(*connection_, "/org", gate_) {
        Interface<FakePolkit> table(authority, *this);
        table
            .method<&FakePolkit::check>("CheckAuthorization",
                                        in("subject", "action_id", "details", "flags", "cancellation_id"),
                                        out("result"))
            .method<&FakePolkit::cancel>("CancelCheckAuthorization", in("cancellation_id"), out());
        objects_.add(authority_path, table);
    }
    Task<> begin() { return connection_->request_name("org.freedesktop.PolicyKit1", soon()); }
    Task<> end() { return objects_.stop(); }

    Task<> reach_asked(int count) {
        while (asked < count) co_await changed_.wait(soon(), "a question to polkit");
    }
    Task<> reach_cancelled() {
        while (cancelled.empty()) co_await changed_.wait(soon(), "the end of a question to polkit");
    }

    int asked = 0;
    Subject subject;
    std::string action;
    Details details;
    std::uint32_t flags = 0;
    std::string id;
    std::string cancelled;
    bool authorized = false;
    bool challenge = false;
    bool hang = false;
    bool broken = false;

  private:
    Task<std::tuple<Result>> check(Call, Subject new_subject, std::string new_action, Details new_details,
                                   std::uint32_t new_flags, std::string new_id) {
        ++asked;
        subject = std::move(new_subject);
        action = std::move(new_action);
        details = std::move(new_details);
        flags = new_flags;
        id = std::move(new_id);
        changed_.notify();
        while (hang && cancelled != id) co_await changed_.wait(soon(), "the end of a question to polkit");
        if (hang || broken) throw Error(ErrorCode::qemu_failed, "no decision");
        co_return std::make_tuple(std::make_tuple(authorized, challenge, Details()));
    }
    Task<> cancel(Call, std::string cancelled_id) {
        cancelled = std::move(cancelled_id);
        changed_.notify();
        co_return;
    }

    std::unique_ptr<Connection> connection_;
    OpenGate gate_;
    async::Condition changed_;
    Objects objects_;
};

/// The service with polkit at its gate.
class Guarded {
  public:
    explicit Guarded(PrivateBus& bus, bool details = true)
        : service(bus), polkit(*service.connection, details, limits()) {
        service.gate.polkit = &polkit;
        path = object_path(thing_prefix, service.add_thing(1)).str();
    }
    static Polkit::Limits limits() {
        Polkit::Limits limits;
        limits.answer = seconds(20);
        limits.interaction = seconds(20);
        return limits;
    }
    /// A call with or without the flag that allows polkit to ask for a password.
    [[nodiscard]] Task<std::uint32_t> call(Connection& caller, bool interactive) const {
        caller.allow_interaction(interactive);
        const Proxy thing(caller, "org.volchain1", path, thing_interface);
        return thing.call<std::uint32_t>("Who", soon());
    }

    ThingService service;
    Polkit polkit;
    std::string path;
};

class PolkitTest : public testing::Test {
  protected:
    void SetUp() override {
        if (::geteuid() != 0) GTEST_SKIP() << "not root: calls of other users cannot be made";
    }
};

constexpr const char* access_denied = "org.freedesktop.DBus.Error.AccessDenied";

Task<> mocked() {
    const auto bus = co_await PrivateBus::start();
    Guarded guarded(*bus);
    co_await guarded.service.begin();
    const auto user = bus->connect(nobody);
    const auto root = bus->connect();
    auto failure = co_await failure_of(guarded.call(*user, true));
    EXPECT_EQ(remote_name_of(failure), access_denied);
    EXPECT_THAT(text_of(failure),
                HasSubstr("not authorized for org.volchain1.test: polkit did not decide: "));
    auto caller = co_await guarded.call(*root, false);
    EXPECT_EQ(caller, 0U) << "root may where there is no polkit";

    const auto mock = co_await bus->start_mock_polkit();
    failure = co_await failure_of(guarded.call(*user, true));
    EXPECT_EQ(remote_name_of(failure), access_denied);
    EXPECT_EQ(text_of(failure), "not authorized for org.volchain1.test");

    const Proxy control(*root, "org.freedesktop.PolicyKit1", authority_path, "org.freedesktop.DBus.Mock");
    const std::vector<std::string> allowed(1, "org.volchain1.test");
    co_await control.call("SetAllowed", soon(), allowed);
    caller = co_await guarded.call(*user, false);
    EXPECT_EQ(caller, nobody);
    caller = co_await guarded.call(*root, false);
    EXPECT_EQ(caller, 0U);

    // From a process of its own.
    std::vector<std::string> who{"call", "org.volchain1", guarded.path, thing_interface, "Who"};
    const auto by_hand = co_await bus->busctl(std::move(who), nobody);
    EXPECT_EQ(by_hand.output, fmt::format("u {}\n", nobody)) << by_hand.errors;
    co_await guarded.service.end();
}

TEST_F(PolkitTest, AbsentNoAndYes) {
    run(mocked());
}

Task<> hanging() {
    const auto bus = co_await PrivateBus::start();
    Guarded guarded(*bus);
    Polkit::Limits limits;
    limits.answer = milliseconds(200);
    limits.interaction = milliseconds(300);
    Polkit impatient(*guarded.service.connection, true, limits);
    guarded.service.gate.polkit = &impatient;
    co_await guarded.service.begin();
    const auto user = bus->connect(nobody);
    const auto mock = co_await bus->start_mock_polkit();
    const Proxy control(*guarded.service.client, "org.freedesktop.PolicyKit1", authority_path,
                        "org.freedesktop.DBus.Mock");
    co_await control.call("SimulateHang", soon(), true);
    for (int interactive = 0; interactive < 2; ++interactive) {
        const auto failure = co_await failure_of(guarded.call(*user, interactive == 1));
        EXPECT_EQ(remote_name_of(failure), access_denied);
        EXPECT_THAT(text_of(failure), HasSubstr("polkit did not decide: timed out waiting for the answer of "
                                                "org.freedesktop.PolicyKit1"));
    }
    const auto hung = co_await control.call<bool>("HaveHangingCalls", soon());
    EXPECT_TRUE(hung);
    co_await guarded.service.end();
}

TEST_F(PolkitTest, Hanging) {
    run(hanging());
}

Task<> questions() {
    const auto bus = co_await PrivateBus::start();
    FakePolkit polkit(*bus);
    co_await polkit.begin();
    Guarded guarded(*bus);
    co_await guarded.service.begin();
    const auto user = bus->connect(nobody);

    polkit.challenge = true;
    auto failure = co_await failure_of(guarded.call(*user, false));
    EXPECT_EQ(remote_name_of(failure), "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired");
    EXPECT_THAT(text_of(failure), HasSubstr("org.volchain1.test needs authorization: call again"));
    EXPECT_EQ(polkit.flags, 0U);
    EXPECT_EQ(polkit.action, "org.volchain1.test");
    EXPECT_EQ(polkit.subject.first, "system-bus-name");
    EXPECT_EQ(polkit.subject.second.at("name").get<std::string>(), user->unique_name());
    EXPECT_EQ(polkit.details.at("thing"), guarded.path);
    const std::string first_id = polkit.id;

    failure = co_await failure_of(guarded.call(*user, true));
    EXPECT_EQ(remote_name_of(failure), access_denied) << "nobody answered the question for a password";
    EXPECT_EQ(polkit.flags, 1U);
    EXPECT_NE(polkit.id, first_id);

    polkit.broken = true;
    failure = co_await failure_of(guarded.call(*user, true));
    EXPECT_EQ(remote_name_of(failure), access_denied);
    EXPECT_THAT(text_of(failure), HasSubstr("polkit did not decide: no decision"));
    polkit.broken = false;

    polkit.authorized = true;
    auto caller = co_await guarded.call(*user, true);
    EXPECT_EQ(caller, nobody);
    EXPECT_EQ(polkit.asked, 4);
    caller = co_await guarded.call(*guarded.service.client, true);
    EXPECT_EQ(caller, 0U);
    EXPECT_EQ(polkit.asked, 4) << "root is not asked about";

    Polkit taciturn(*guarded.service.connection, false);
    guarded.service.gate.polkit = &taciturn;
    caller = co_await guarded.call(*user, true);
    EXPECT_EQ(caller, nobody);
    EXPECT_TRUE(polkit.details.empty());
    co_await guarded.service.end();
    co_await polkit.end();
}

TEST_F(PolkitTest, WhatIsAskedAndWhatFollows) {
    run(questions());
}

Task<> keep_end(Task<std::uint32_t> call, std::exception_ptr& failure) {
    failure = co_await failure_of(std::move(call));
}

Task<> caller_leaves() {
    const auto bus = co_await PrivateBus::start();
    FakePolkit polkit(*bus);
    co_await polkit.begin();
    Guarded guarded(*bus);
    co_await guarded.service.begin();
    polkit.hang = true;
    auto user = bus->connect(nobody);
    std::exception_ptr failure;
    async::TaskGroup group(guarded.service.connection->executor());
    group.spawn(keep_end(guarded.call(*user, true), failure), "the call");
    co_await polkit.reach_asked(1);
    EXPECT_TRUE(polkit.cancelled.empty());
    user.reset();
    co_await polkit.reach_cancelled();
    EXPECT_EQ(polkit.cancelled, polkit.id);
    co_await group.join(soon());
    EXPECT_EQ(code_of(failure), ErrorCode::unreachable);
    co_await guarded.service.end();
    co_await polkit.end();
}

TEST_F(PolkitTest, TheQuestionIsWithdrawnWhenTheCallerLeaves) {
    run(caller_leaves());
}

Task<> service_stops() {
    const auto bus = co_await PrivateBus::start();
    FakePolkit polkit(*bus);
    co_await polkit.begin();
    Guarded guarded(*bus);
    co_await guarded.service.begin();
    polkit.hang = true;
    const auto user = bus->connect(nobody);
    std::exception_ptr failure;
    async::TaskGroup group(guarded.service.connection->executor());
    group.spawn(keep_end(guarded.call(*user, false), failure), "the call");
    co_await polkit.reach_asked(1);
    co_await guarded.service.end();
    co_await polkit.reach_cancelled();
    EXPECT_EQ(polkit.cancelled, polkit.id);
    co_await group.join(soon());
    EXPECT_EQ(code_of(failure), ErrorCode::cancelled) << "it was answered";
    co_await polkit.end();
}

TEST_F(PolkitTest, TheQuestionIsWithdrawnWhenTheServiceStops) {
    run(service_stops());
}

}  // namespace
}  // namespace volchain::bus::polkit_test
