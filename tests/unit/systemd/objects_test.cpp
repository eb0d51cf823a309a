// SPDX-License-Identifier: MIT
#include "systemd/objects.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "bus_helpers.h"
#include "private_bus.h"
#include "support/run_task.h"
#include "thing_service.h"

namespace volchain::bus::objects_test {
namespace {

using async::run;
using async::Task;
using testing::HasSubstr;
using testing::Not;

Task<> methods() {
    const auto bus = co_await PrivateBus::start();
    ThingService service(*bus);
    co_await service.begin();
    const Uuid id = service.add_thing(5);
    const Proxy thing = service.thing(id);

    const auto greeting = co_await service.manager().call<std::string>("Greet", soon(), "you");
    EXPECT_EQ(greeting, "hello you");
    const auto path = co_await thing.call<ObjectPath>("Resize", soon(), seven, Dict());
    EXPECT_EQ(path, object_path(thing_prefix, id));
    EXPECT_EQ(service.things.sizes.at(id), 7U);
    using State = std::tuple<std::string, std::pair<std::string, std::string>, Dict>;
    const auto [state, error, result] = co_await thing.call<State>("State", soon());
    EXPECT_EQ(state, "failed");
    EXPECT_EQ(error.first, "NoSpace");
    EXPECT_EQ(result.at("size").get<std::uint64_t>(), 7U);
    const auto fd = co_await thing.call<UnixFd>("Open", soon());
    EXPECT_EQ(::write(fd.get(), "x", 1), 1);

    Dict options;
    options.emplace("keep-name", false);
    options.emplace("colour", "red");
    auto unknown = thing.call("Resize", soon(), seven, options);
    const auto failure = co_await failure_of(std::move(unknown));
    EXPECT_EQ(code_of(failure), ErrorCode::invalid_argument);
    EXPECT_EQ(text_of(failure), "unknown option 'colour'");

    auto wrong_types = thing.call("Resize", soon(), "seven");
    const auto refused = co_await failure_of(std::move(wrong_types));
    EXPECT_EQ(remote_name_of(refused), "org.freedesktop.DBus.Error.InvalidArgs");
    co_await service.end();
}

TEST(Objects, MethodsTakeAndGiveTypedValues) {
    run(methods());
}

Task<> properties() {
    const auto bus = co_await PrivateBus::start();
    ThingService service(*bus);
    co_await service.begin();
    const Uuid id = service.add_thing(5);
    const Proxy thing = service.thing(id);
    const auto size = co_await thing.property<std::uint64_t>("SizeBytes", soon());
    EXPECT_EQ(size, 5U);
    const Dict all = co_await thing.properties(soon());
    EXPECT_EQ(all.size(), 5U);
    EXPECT_EQ(all.at("Id").get<std::string>(), id.str());
    EXPECT_EQ(all.at("Bitmaps").signature(), "a(stt)");
    const auto version = co_await service.manager().property<std::string>("Version", soon());
    EXPECT_EQ(version, "0.1");

    service.things.thing_name = "caf\xE9";  // Latin-1, as a path might be
    const auto name = co_await thing.property<std::string>("Name", soon());
    EXPECT_EQ(name, "caf\xEF\xBF\xBD");
    service.things.broken_name = true;
    auto broken = thing.property<std::string>("Name", soon());
    const auto failure = co_await failure_of(std::move(broken));
    EXPECT_EQ(text_of(failure), "no name");

    const Proxy setter(*service.client, "org.volchain1", object_path(thing_prefix, id).str(),
                       "org.freedesktop.DBus.Properties");
    auto set = setter.call("Set", soon(), thing_interface, "SizeBytes", Variant(std::uint64_t{1}));
    const auto read_only = co_await failure_of(std::move(set));
    EXPECT_EQ(remote_name_of(read_only), "org.freedesktop.DBus.Error.PropertyReadOnly");
    co_await service.end();
}

TEST(Objects, PropertiesAreReadAndNeverSet) {
    run(properties());
}

Task<> unknown_objects() {
    const auto bus = co_await PrivateBus::start();
    ThingService service(*bus);
    co_await service.begin();
    const Proxy none = service.thing(Uuid::make());
    auto call = none.call("State", soon());
    auto failure = co_await failure_of(std::move(call));
    EXPECT_EQ(remote_name_of(failure), "org.freedesktop.DBus.Error.UnknownObject");
    auto property = none.property<std::uint64_t>("SizeBytes", soon());
    failure = co_await failure_of(std::move(property));
    EXPECT_EQ(remote_name_of(failure), "org.freedesktop.DBus.Error.UnknownObject");
    const Proxy prefix(*service.client, "org.volchain1", thing_prefix, thing_interface);
    auto at_prefix = prefix.call("State", soon());
    failure = co_await failure_of(std::move(at_prefix));
    EXPECT_THAT(remote_name_of(failure), HasSubstr("org.freedesktop.DBus.Error.Unknown"));
    EXPECT_TRUE(service.gate.passed.empty());
    co_await service.end();
}

TEST(Objects, UnknownObjectsAreUnknown) {
    run(unknown_objects());
}

using Managed = std::map<ObjectPath, std::map<std::string, Dict>>;

Task<> discovery() {
    const auto bus = co_await PrivateBus::start();
    ThingService service(*bus);
    co_await service.begin();
    const Uuid first = service.add_thing(1);
    const Uuid second = service.add_thing(2);
    const Proxy manager(*service.client, "org.volchain1", root_path, "org.freedesktop.DBus.ObjectManager");
    const auto managed = co_await manager.call<Managed>("GetManagedObjects", soon());
    EXPECT_EQ(managed.size(), 2U);
    for (const auto& [id, size] : service.things.sizes) {
        const auto& thing = managed.at(object_path(thing_prefix, id)).at(thing_interface);
        EXPECT_EQ(thing.at("SizeBytes").get<std::uint64_t>(), size);
        EXPECT_EQ(thing.at("Id").get<std::string>(), id.str());
    }

    const std::string path = object_path(thing_prefix, first).str();
    const auto introspect = [&](const std::string& where) {
        const Proxy object(*service.client, "org.volchain1", where, "org.freedesktop.DBus.Introspectable");
        return object.call<std::string>("Introspect", soon());
    };
    const auto root = co_await introspect(root_path);
    EXPECT_THAT(root, HasSubstr("<interface name=\"org.freedesktop.DBus.ObjectManager\">"));
    EXPECT_THAT(root, HasSubstr("<node name=\"thing\"/>"));
    EXPECT_THAT(root, HasSubstr("<signal name=\"Finished\">\n   <arg type=\"o\" name=\"thing\"/>\n"
                                "   <arg type=\"s\" name=\"state\"/>"));
    const auto listing = co_await introspect(thing_prefix);
    EXPECT_THAT(listing, HasSubstr("<node name=\"" + first.str('_') + "\"/>"));
    EXPECT_THAT(listing, HasSubstr("<node name=\"" + second.str('_') + "\"/>"));
    const auto thing = co_await introspect(path);
    EXPECT_THAT(thing, HasSubstr("<method name=\"Resize\">\n"
                                 "   <arg type=\"t\" name=\"size\" direction=\"in\"/>\n"
                                 "   <arg type=\"a{sv}\" name=\"options\" direction=\"in\"/>\n"
                                 "   <arg type=\"o\" name=\"thing\" direction=\"out\"/>"));
    EXPECT_THAT(thing, HasSubstr("<arg type=\"(ss)\" name=\"error\" direction=\"out\"/>"));
    const auto emits = [](const std::string& name, const std::string& type, const std::string& how) {
        return "<property name=\"" + name + "\" type=\"" + type +
               "\" access=\"read\">\n   <annotation name=\"" +
               "org.freedesktop.DBus.Property.EmitsChangedSignal\" value=\"" + how + "\"/>";
    };
    EXPECT_THAT(thing, HasSubstr(emits("Id", "s", "const")));
    EXPECT_THAT(thing, HasSubstr(emits("Bitmaps", "a(stt)", "invalidates")));
    EXPECT_THAT(thing, HasSubstr(emits("AllocatedBytes", "t", "false")));
    EXPECT_THAT(thing, HasSubstr("<property name=\"SizeBytes\" type=\"t\" access=\"read\">\n  </property>"));
    EXPECT_THAT(thing, Not(HasSubstr("org.freedesktop.systemd1.Privileged")));

    std::vector<std::string> arguments{"call", "org.volchain1", path, thing_interface, "State"};
    const auto called = co_await bus->busctl(std::move(arguments));
    EXPECT_EQ(called.output, "s(ss)a{sv} \"failed\" \"NoSpace\" \"full\" 1 \"size\" t 1\n") << called.errors;
    co_await service.end();
}

TEST(Objects, IntrospectionAndManagedObjects) {
    run(discovery());
}

Task<> broken_getter() {
    const auto bus = co_await PrivateBus::start();
    ThingService service(*bus);
    co_await service.begin();
    const Uuid id = service.add_thing(5);
    service.things.broken_name = true;
    const Dict all = co_await service.thing(id).properties(soon());
    EXPECT_FALSE(all.contains("Name"));
    EXPECT_EQ(all.at("SizeBytes").get<std::uint64_t>(), 5U);
    const Proxy manager(*service.client, "org.volchain1", root_path, "org.freedesktop.DBus.ObjectManager");
    const auto managed = co_await manager.call<Managed>("GetManagedObjects", soon());
    const Dict& thing = managed.at(object_path(thing_prefix, id)).at(thing_interface);
    EXPECT_EQ(thing.size(), 4U);
    EXPECT_FALSE(thing.contains("Name"));
    co_await service.end();
}

TEST(Objects, AGetterThatThrowsCostsItsPropertyAlone) {
    run(broken_getter());
}

Task<> too_many() {
    const auto bus = co_await PrivateBus::start();
    ThingService service(*bus);
    co_await service.begin();
    const Uuid id = service.add_thing(5);
    for (int more = 0; more < 30; ++more) (void)service.add_thing(1);
    service.things.thing_name.assign(std::size_t{1} << 20, 'x');
    const Proxy manager(*service.client, "org.volchain1", root_path, "org.freedesktop.DBus.ObjectManager");
    auto call = manager.call<Managed>("GetManagedObjects", soon());
    const auto failure = co_await failure_of(std::move(call));
    EXPECT_EQ(code_of(failure), ErrorCode::unsupported);
    // The bus has not thrown us out.
    const auto name = co_await service.thing(id).property<std::string>("Name", soon());
    EXPECT_EQ(name.size(), service.things.thing_name.size());
    co_await service.end();
}

TEST(Objects, MoreThanFitsIntoAMessageIsRefused) {
    run(too_many());
}

Task<> foreign_queries() {
    const auto bus = co_await PrivateBus::start();
    ThingService service(*bus);
    co_await service.begin();
    const Uuid id = service.add_thing(5);
    const std::string path = object_path(thing_prefix, id).str();
    const auto get_all = [&](const std::string& where, const std::string& interface) {
        const Proxy object(*service.client, "org.volchain1", where, "org.freedesktop.DBus.Properties");
        return object.call<Dict>("GetAll", soon(), interface);
    };
    for (const std::string& where : {path, root_path}) {
        auto call = get_all(where, "org.volchain1.Nothing");
        const auto failure = co_await failure_of(std::move(call));
        EXPECT_EQ(remote_name_of(failure), "org.freedesktop.DBus.Error.UnknownInterface");
    }
    auto nowhere = get_all(object_path(thing_prefix, Uuid::make()).str(), thing_interface);
    auto failure = co_await failure_of(std::move(nowhere));
    EXPECT_EQ(remote_name_of(failure), "org.freedesktop.DBus.Error.UnknownObject");
    const Proxy thing(*service.client, "org.volchain1", path, "org.freedesktop.DBus.ObjectManager");
    auto elsewhere = thing.call<Managed>("GetManagedObjects", soon());
    failure = co_await failure_of(std::move(elsewhere));
    EXPECT_THAT(remote_name_of(failure), HasSubstr("org.freedesktop.DBus.Error.Unknown"));
    const Proxy manager(*service.client, "org.volchain1", root_path, "org.freedesktop.DBus.ObjectManager");
    auto with_argument = manager.call<Managed>("GetManagedObjects", soon(), seven);
    failure = co_await failure_of(std::move(with_argument));
    EXPECT_EQ(remote_name_of(failure), "org.freedesktop.DBus.Error.InvalidArgs");
    const Dict of_manager = co_await get_all(root_path, manager_interface);
    EXPECT_EQ(of_manager.at("Version").get<std::string>(), "0.1");
    co_await service.end();
}

TEST(Objects, QueriesForWhatIsNotThereAreRefused) {
    run(foreign_queries());
}

Task<> options_by_hand() {
    const auto bus = co_await PrivateBus::start();
    ThingService service(*bus);
    co_await service.begin();
    const Uuid id = service.add_thing(1);
    const std::string path = object_path(thing_prefix, id).str();
    std::vector<std::string> resize{"call", "org.volchain1", path, thing_interface, "Resize", "ta{sv}"};
    auto good = resize;
    for (const char* argument : {"9", "1", "keep-name", "b", "false"}) good.emplace_back(argument);
    const auto done = co_await bus->busctl(std::move(good));
    EXPECT_EQ(done.output, "o \"" + path + "\"\n") << done.errors;
    EXPECT_EQ(service.things.sizes.at(id), 9U);
    EXPECT_EQ(service.things.thing_name, "renamed");
    // One value of every type that a person may write, all of them unknown.
    auto odd = resize;
    for (const char* argument : {"9",  "6",      "a", "ao", "1", "/x", "b", "a{oo}", "1", "/x",    "/y",
                                 "c",  "aa{sv}", "1", "1",  "k", "v",  "i", "3",     "d", "a(os)", "1",
                                 "/x", "why",    "e", "ay", "2", "1",  "2", "f",     "g", "a{sv}"})
        odd.emplace_back(argument);
    const auto refused = co_await bus->busctl(std::move(odd));
    EXPECT_EQ(refused.status.code, 1);
    EXPECT_THAT(refused.errors, HasSubstr("unknown options 'a', 'b', 'c', 'd', 'e', 'f'"));
    co_await service.end();
}

TEST(Objects, OptionsWrittenByHandAreRead) {
    run(options_by_hand());
}

Task<> enumerated() {
    const auto bus = co_await PrivateBus::start();
    ThingService service(*bus);
    std::vector<std::string> names;
    for (const auto& [interface, member] : service.objects.methods())
        names.push_back(interface + "." + member);
    EXPECT_THAT(names, testing::ElementsAre("org.volchain1.Manager.Greet", "org.volchain1.Thing.Block",
                                            "org.volchain1.Thing.Fail", "org.volchain1.Thing.FailStrangely",
                                            "org.volchain1.Thing.Open", "org.volchain1.Thing.Resize",
                                            "org.volchain1.Thing.State", "org.volchain1.Thing.Wait",
                                            "org.volchain1.Thing.Who"));
    Interface<Things> misplaced("org.volchain1.Misplaced", service.things);
    misplaced.property<&Things::size>("SizeBytes", Change::signalled);
    EXPECT_THROW(service.objects.add("/org/volchain1/x", misplaced), Error) << "one of its kind has no id";
    co_await service.end();
}

TEST(Objects, EveryMethodIsKnown) {
    run(enumerated());
}

}  // namespace
}  // namespace volchain::bus::objects_test
