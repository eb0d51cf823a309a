// SPDX-License-Identifier: MIT
#include "thing_service.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <stdexcept>

#include "base/error.h"

namespace volchain::bus {

async::Task<> TestGate::authorize(Call call) {
    passed.push_back(call.interface() + "." + call.member());
    changed.notify();
    while (hold) co_await changed.wait(soon(), "the gate");
    if (refusal) std::rethrow_exception(refusal);
    if (polkit == nullptr) co_return;
    Polkit::Details details;
    details.emplace("thing", call.path());
    co_await polkit->check(call, "org.volchain1.test", std::move(details));
}

async::Task<ObjectPath> Things::resize(Call call, Uuid id, std::uint64_t size, Options options) {
    const auto keep_name = options.take<bool>("keep-name", true);
    options.finish();
    sizes.at(id) = size;
    if (!keep_name) thing_name = "renamed";
    objects->changed(call.path(), thing_interface, "SizeBytes");
    co_return ObjectPath(call.path());
}

async::Task<std::tuple<std::string, std::pair<std::string, std::string>, Dict>> Things::state(Call, Uuid id) {
    Dict result;
    result.emplace("size", sizes.at(id));
    std::pair<std::string, std::string> error("NoSpace", "full");
    co_return std::make_tuple(std::string("failed"), std::move(error), std::move(result));
}

async::Task<> Things::fail(Call, Uuid, std::string code, std::string text) {
    co_await async::yield();
    throw Error(error_code(code), text);
}

async::Task<> Things::fail_strangely(Call, Uuid) {
    co_await async::yield();
    throw std::runtime_error("not even an Error, \xFF");
}

async::Task<std::uint32_t> Things::who(Call call, Uuid) {
    const auto first = co_await call.sender_uid();
    const auto again = co_await call.sender_uid();
    co_return first == again ? first : 0;
}

async::Task<> Things::block(Call, Uuid) {
    ++blocked;
    changed.notify();
    while (!released) co_await changed.wait(soon(), "release");
    --blocked;
}

async::Task<UnixFd> Things::open(Call, Uuid) {
    co_return UnixFd(UniqueFd(::open("/dev/null", O_RDWR | O_CLOEXEC)));
}

void Things::release() {
    released = true;
    changed.notify();
}

async::Task<> Things::reach_blocked(int count) {
    while (blocked < count) co_await changed.wait(soon(), "calls that block");
}

async::Task<std::string> Manager::greet(Call call, std::string name) {
    EXPECT_TRUE(call.object().nil());
    co_return "hello " + name;
}

ThingService::ThingService(PrivateBus& bus, Limits limits)
    : connection(bus.connect()), client(bus.connect()), objects(*connection, root_path, gate, limits) {
    things.objects = &objects;
    Interface<Manager> manager_table(manager_interface, the_manager);
    manager_table.method<&Manager::greet>("Greet", in("name"), out("greeting"))
        .property<&Manager::version>("Version", Change::never)
        .signal<ObjectPath, std::string>("Finished", out("thing", "state"));
    Interface<Things> thing_table(thing_interface, things);
    thing_table.method<&Things::resize>("Resize", in("size", "options"), out("thing"))
        .method<&Things::state>("State", in(), out("state", "error", "result"))
        .method<&Things::fail>("Fail", in("code", "text"), out())
        .method<&Things::fail_strangely>("FailStrangely", in(), out())
        .method<&Things::who>("Who", in(), out("uid"))
        .method<&Things::block>("Block", in(), out())
        .method<&Things::wait>("Wait", in(), out(), Reply::deferred)
        .method<&Things::open>("Open", in(), out("fd"))
        .property<&Things::id>("Id", Change::never)
        .property<&Things::name>("Name", Change::signalled)
        .property<&Things::size>("SizeBytes", Change::signalled)
        .property<&Things::bitmaps>("Bitmaps", Change::invalidated)
        .property<&Things::allocated>("AllocatedBytes", Change::silent);
    objects.add(root_path, manager_table);
    auto exists = [this](Uuid id) { return things.sizes.contains(id); };
    auto list = [this] {
        std::vector<Uuid> all;
        for (const auto& [id, size] : things.sizes) all.push_back(id);
        return all;
    };
    objects.add_family(Objects::Family(thing_prefix, exists, list), {thing_table});
}

async::Task<> ThingService::begin() {
    return connection->request_name("org.volchain1", soon());
}

Uuid ThingService::add_thing(std::uint64_t size) {
    const Uuid id = Uuid::make();
    things.sizes.emplace(id, size);
    return id;
}

Proxy ThingService::thing(Uuid id) const {
    return {*client, "org.volchain1", object_path(thing_prefix, id).str(), thing_interface};
}

Proxy ThingService::manager() const {
    return {*client, "org.volchain1", root_path, manager_interface};
}

}  // namespace volchain::bus
