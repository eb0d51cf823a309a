// SPDX-License-Identifier: MIT
//
// What Objects says without being asked.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <stdexcept>

#include "async/condition.h"
#include "bus_helpers.h"
#include "private_bus.h"
#include "support/run_task.h"
#include "systemd/objects.h"
#include "thing_service.h"

namespace volchain::bus::signals_test {
namespace {

using async::run;
using async::Task;
using testing::ElementsAre;

/// All signals below our root, as a client gets them.
class Ear {
  public:
    explicit Ear(Connection& client)
        : subscription_(
              client.subscribe("type='signal',path_namespace='/org/volchain1'", [this](Message message) {
                  heard_.push_back(std::move(message));
                  more_.notify();
              })) {}

    Task<Message> next() {
        while (heard_.size() <= taken_) co_await more_.wait(soon(), "a signal");
        Message message = Message::share(heard_[taken_++].get());
        co_return message;
    }
    [[nodiscard]] std::vector<std::string> all() const {
        std::vector<std::string> names;
        for (const Message& message : heard_) names.push_back(message.member());
        return names;
    }

  private:
    std::vector<Message> heard_;
    std::size_t taken_ = 0;
    async::Condition more_;
    Subscription subscription_;
};

using Changed = std::tuple<std::string, Dict, std::vector<std::string>>;

Task<> coalesced() {
    const auto bus = co_await PrivateBus::start();
    ThingService service(*bus);
    co_await service.begin();
    const Uuid id = service.add_thing(1);
    const std::string path = object_path(thing_prefix, id).str();
    Ear ear(*service.client);
    (void)co_await driver_of(*service.client).call<std::string>("GetId", soon());

    for (std::uint64_t size = 2; size < 10; ++size) {
        service.things.sizes.at(id) = size;
        service.objects.changed(path, thing_interface, "SizeBytes");
        service.objects.changed(path, thing_interface, "Bitmaps");
        service.objects.changed(path, thing_interface, "AllocatedBytes");
    }
    service.objects.changed(path, thing_interface, "Name");
    service.things.thing_name = "later";
    const Message message = co_await ear.next();
    EXPECT_EQ(message.path(), path);
    const auto [interface, values, invalidated] = read_body<Changed>(message);
    EXPECT_EQ(interface, thing_interface);
    EXPECT_EQ(values.size(), 2U);
    EXPECT_EQ(values.at("SizeBytes").get<std::uint64_t>(), 9U);
    EXPECT_EQ(values.at("Name").get<std::string>(), "later") << "as it is when it is sent";
    EXPECT_THAT(invalidated, ElementsAre("Bitmaps"));
    const auto size = co_await service.thing(id).property<std::uint64_t>("SizeBytes", soon());
    EXPECT_EQ(size, 9U);
    EXPECT_THAT(ear.all(), ElementsAre("PropertiesChanged"));

    EXPECT_THROW(service.objects.changed(path, thing_interface, "Id"), Error) << "const";
    EXPECT_THROW(service.objects.changed(path, thing_interface, "Colour"), Error);
    EXPECT_THROW(service.objects.changed(path, "org.volchain1.Nothing", "Id"), Error);
    co_await service.end();
}

TEST(Signals, ChangesOfOneTurnAreOneSignal) {
    run(coalesced());
}

int note_reply(sd_bus_message*, void* notes, sd_bus_error*) {
    static_cast<std::vector<std::string>*>(notes)->emplace_back("reply");
    return 0;
}

Task<> before_the_reply() {
    const auto bus = co_await PrivateBus::start();
    ThingService service(*bus);
    co_await service.begin();
    const std::string path = object_path(thing_prefix, service.add_thing(1)).str();
    std::vector<std::string> notes;  // in the order in which things come in
    async::Condition more;
    const Subscription subscription =
        service.client->subscribe("type='signal',path='" + path + "'", [&](const Message& message) {
            notes.push_back(message.member());
            more.notify();
        });
    Message request = service.client->method_call("org.volchain1", path, thing_interface, "Resize");
    append(request, seven);
    append(request, Dict());
    sd_bus_slot* slot = nullptr;
    EXPECT_GE(sd_bus_call_async(service.client->native(), &slot, request.get(), note_reply, &notes, 0), 0);
    const Slot call(slot);
    service.client->kick();
    while (notes.empty()) co_await more.wait(soon(), "the change");
    (void)co_await driver_of(*service.client).call<std::string>("GetId", soon());
    EXPECT_THAT(notes, ElementsAre("PropertiesChanged", "reply")) << "who has the reply has the news";
    co_await service.end();
}

TEST(Signals, ChangesComeBeforeTheReplyOfTheCallThatMadeThem) {
    run(before_the_reply());
}

Task<> compared() {
    const auto bus = co_await PrivateBus::start();
    ThingService service(*bus);
    co_await service.begin();
    const Uuid id = service.add_thing(1);
    const Uuid other = service.add_thing(1);
    const std::string path = object_path(thing_prefix, id).str();
    Ear ear(*service.client);
    (void)co_await driver_of(*service.client).call<std::string>("GetId", soon());
    service.objects.remember(path);
    service.objects.compare(path);  // nothing is new
    service.things.sizes.at(id) = 2;
    service.objects.compare(path);
    const Message changed = co_await ear.next();
    EXPECT_EQ(changed.path(), path);
    const auto [interface, values, invalidated] = read_body<Changed>(changed);
    EXPECT_EQ(values.size(), 1U);
    EXPECT_EQ(values.at("SizeBytes").get<std::uint64_t>(), 2U);
    EXPECT_TRUE(invalidated.empty());

    // What was announced is known; what is gone is not asked for its properties.
    service.objects.added(object_path(thing_prefix, other).str());
    service.objects.compare(object_path(thing_prefix, other).str());
    service.things.sizes.erase(id);
    service.objects.compare(path);
    service.objects.emit(root_path, manager_interface, "Finished", ObjectPath(), std::string("end"));
    const Message added = co_await ear.next();
    EXPECT_EQ(added.member(), "InterfacesAdded");
    const Message last = co_await ear.next();
    EXPECT_EQ(last.member(), "Finished");
    co_await service.end();
}

TEST(Signals, CompareFindsWhatChanged) {
    run(compared());
}

Task<> broken_getter() {
    const auto bus = co_await PrivateBus::start();
    ThingService service(*bus);
    co_await service.begin();
    const Uuid id = service.add_thing(1);
    const std::string path = object_path(thing_prefix, id).str();
    Ear ear(*service.client);
    (void)co_await driver_of(*service.client).call<std::string>("GetId", soon());

    service.objects.remember(path);
    service.things.broken_name = true;
    service.objects.compare(path);
    const Message lost = co_await ear.next();
    const auto [interface, values, invalidated] = read_body<Changed>(lost);
    EXPECT_TRUE(values.empty());
    EXPECT_THAT(invalidated, ElementsAre("Name"));

    service.objects.added(path);
    const Message added = co_await ear.next();
    using Added = std::tuple<ObjectPath, std::map<std::string, Dict>>;
    const auto [added_path, interfaces] = read_body<Added>(added);
    EXPECT_FALSE(interfaces.at(thing_interface).contains("Name"));
    EXPECT_TRUE(interfaces.at(thing_interface).contains("SizeBytes"));

    service.things.broken_name = false;
    service.objects.compare(path);
    const Message back = co_await ear.next();
    EXPECT_EQ(std::get<1>(read_body<Changed>(back)).at("Name").get<std::string>(), "thing");
    co_await service.end();
}

TEST(Signals, AGetterThatThrowsCostsItsPropertyAlone) {
    run(broken_getter());
}

Task<> settled() {
    const auto bus = co_await PrivateBus::start();
    ThingService service(*bus);
    co_await service.begin();
    const Uuid id = service.add_thing(1);
    const Proxy thing = service.thing(id);
    int settled = 0;
    service.objects.before_replies([&settled] {
        ++settled;
        throw std::runtime_error("expected in the log");
    });
    // Whatever goes wrong there, the caller gets its answer.
    (void)co_await thing.call<std::uint32_t>("Who", soon());
    const auto failure = co_await failure_of(thing.call("Fail", soon(), "Busy", "by x"));
    EXPECT_EQ(code_of(failure), ErrorCode::busy);
    EXPECT_EQ(settled, 2);
    co_await service.end();
}

TEST(Signals, RepliesComeWhateverHappensToTheChanges) {
    run(settled());
}

Task<> in_order() {
    const auto bus = co_await PrivateBus::start();
    ThingService service(*bus);
    co_await service.begin();
    const Uuid id = service.add_thing(1);
    const std::string path = object_path(thing_prefix, id).str();
    Ear ear(*service.client);
    (void)co_await driver_of(*service.client).call<std::string>("GetId", soon());

    service.objects.added(path);
    service.objects.changed(path, thing_interface, "SizeBytes");
    service.objects.emit(root_path, manager_interface, "Finished", ObjectPath(path),
                         std::string("succeeded"));
    service.objects.changed(path, thing_interface, "SizeBytes");
    service.objects.changed(path, thing_interface, "Name");
    service.things.sizes.erase(id);
    service.objects.removed(path);  // the last changes are of no interest any more

    const Message added = co_await ear.next();
    EXPECT_EQ(added.path(), root_path);
    EXPECT_EQ(added.member(), "InterfacesAdded");
    using Added = std::tuple<ObjectPath, std::map<std::string, Dict>>;
    const auto [added_path, interfaces] = read_body<Added>(added);
    EXPECT_EQ(added_path.str(), path);
    EXPECT_EQ(interfaces.at(thing_interface).at("SizeBytes").get<std::uint64_t>(), 1U);

    const Message changed = co_await ear.next();
    EXPECT_EQ(changed.member(), "PropertiesChanged");

    const Message finished = co_await ear.next();
    EXPECT_EQ(finished.member(), "Finished");
    using Finished = std::tuple<ObjectPath, std::string>;
    const auto [thing, state] = read_body<Finished>(finished);
    EXPECT_EQ(thing.str(), path);
    EXPECT_EQ(state, "succeeded");

    const Message removed = co_await ear.next();
    EXPECT_EQ(removed.member(), "InterfacesRemoved");
    using Removed = std::tuple<ObjectPath, std::vector<std::string>>;
    const auto [removed_path, names] = read_body<Removed>(removed);
    EXPECT_EQ(removed_path.str(), path);
    EXPECT_THAT(names, testing::Contains(thing_interface));

    auto gone = service.thing(id).property<std::uint64_t>("SizeBytes", soon());
    const auto failure = co_await failure_of(std::move(gone));
    EXPECT_EQ(remote_name_of(failure), "org.freedesktop.DBus.Error.UnknownObject");
    service.objects.added(path);  // came and went: nothing to tell
    service.objects.emit(root_path, manager_interface, "Finished", ObjectPath(), std::string("end"));
    const Message last = co_await ear.next();
    EXPECT_EQ(last.member(), "Finished");
    co_await service.end();
}

TEST(Signals, LeaveInTheOrderInWhichTheyWereSaid) {
    run(in_order());
}

Task<> by_well_known_name() {
    const auto bus = co_await PrivateBus::start();
    ThingService service(*bus);
    std::string state;
    async::Condition more;
    const Subscription subscription = service.manager().subscribe("Finished", [&](const Message& message) {
        state = std::get<1>(read_body<std::tuple<ObjectPath, std::string>>(message));
        more.notify();
    });
    co_await service.begin();
    service.objects.emit(root_path, manager_interface, "Finished", ObjectPath(), std::string("succeeded"));
    while (state.empty()) co_await more.wait(soon(), "the signal");
    EXPECT_EQ(state, "succeeded");
    co_await service.end();
}

TEST(Signals, ReachWhoeverSubscribedToTheName) {
    run(by_well_known_name());
}

Task<> declared() {
    const auto bus = co_await PrivateBus::start();
    ThingService service(*bus);
    EXPECT_THROW(service.objects.emit(root_path, manager_interface, "Finished", std::string("/x")), Error);
    EXPECT_THROW(service.objects.emit(root_path, manager_interface, "Begun"), Error);
    co_await service.end();
}

TEST(Signals, OnlyThoseOfTheTable) {
    run(declared());
}

Task<> forgotten() {
    const auto bus = co_await PrivateBus::start();
    {
        ThingService service(*bus);
        const std::string path = object_path(thing_prefix, service.add_thing(1)).str();
        service.objects.changed(path, thing_interface, "SizeBytes");
        co_await service.end();
    }
    co_await async::yield();  // the turn at whose end the change would have been told
}

TEST(Signals, ChangesThatNobodyTellsAnyMore) {
    run(forgotten());
}

}  // namespace
}  // namespace volchain::bus::signals_test
