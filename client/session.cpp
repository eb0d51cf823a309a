// SPDX-License-Identifier: MIT
#include "client/session.h"

#include <chrono>
#include <cstdlib>
#include <utility>

#include "base/text.h"
#include "client/polkit_agent.h"
#include "client/units.h"
#include "systemd/bus_error.h"

namespace volchain::client {
namespace {

constexpr std::chrono::minutes call_limit{5};

constexpr const char* start_it = "start it with 'systemctl start volchain.service'";

std::string bus_address() {
    const char* const address = std::getenv("DBUS_SYSTEM_BUS_ADDRESS");
    return address == nullptr ? "the system bus"
                              : fmt::format("the bus {} (DBUS_SYSTEM_BUS_ADDRESS)", quote(address));
}

}  // namespace

Session::Session(async::Executor executor, const Settings& settings)
    : executor_(std::move(executor)), settings_(settings), output_(settings) {}

Session::~Session() = default;

bus::Connection& Session::bus() {
    if (bus_) return *bus_;
    try {
        bus_ = std::unique_ptr<bus::Connection>(new bus::Connection(bus::Connection::open_system(executor_)));
    } catch (const Error& error) {
        throw Error(error.code(), "{}: is dbus running? Tried {}", error.what(), bus_address());
    }
    bus_->allow_interaction(settings_.ask_password);
    // Every wait for an answer fails when the bus goes, and says so.
    bus_->on_lost([](const std::string&) {});
    return *bus_;
}

void Session::start_agent() {
    if (settings_.ask_password && !agent_) agent_ = PolkitAgent::start();
}

async::Deadline Session::soon() {
    return async::after(call_limit);
}

bus::Proxy Session::proxy(const bus::ObjectPath& object) {
    return {bus(), service_name, object.str(), interface_of(kind_of(object))};
}

bus::Proxy Session::manager() {
    return {bus(), service_name, root_path, manager_interface};
}

async::Task<bus::ObjectPath> Session::find(std::string kind, std::string what) {
    if (what.starts_with(std::string(root_path) + "/" + kind + "/")) co_return bus::ObjectPath(what);
    auto call = manager().call<bus::ObjectPath>("Find", soon(), kind, what);
    co_return co_await std::move(call);
}

async::Task<std::vector<bus::ObjectPath>> Session::find_all(std::string kind, std::vector<std::string> what) {
    std::vector<bus::ObjectPath> found;
    for (const std::string& one : what) {
        bus::ObjectPath object = co_await find(kind, one);
        found.push_back(std::move(object));
    }
    co_return found;
}

async::Task<Objects> Session::objects(async::Deadline deadline) {
    const bus::Proxy root(bus(), service_name, root_path, "org.freedesktop.DBus.ObjectManager");
    const auto managed = co_await root.call<Objects::Managed>("GetManagedObjects", deadline);
    co_return Objects(managed);
}

async::Task<Object> Session::object(bus::ObjectPath path) {
    Object object;
    object.path = path;
    object.kind = kind_of(path);
    try {
        object.properties = co_await proxy(path).properties(soon());
    } catch (const Error& error) {
        if (error.code() != ErrorCode::not_found) throw;
    }
    co_return object;
}

std::string explain(const std::exception_ptr& failure) {
    try {
        std::rethrow_exception(failure);
    } catch (const bus::RemoteError& error) {
        const std::string& name = error.error_name();
        if (name.ends_with(".ServiceUnknown") || name.ends_with(".NameHasNoOwner"))
            return fmt::format("volchaind does not run: nobody has the name {} on {}; {}", service_name,
                               bus_address(), start_it);
        if (name.find(".Spawn.") != std::string::npos || name.starts_with("org.freedesktop.systemd1."))
            return fmt::format("volchaind could not be started: {}; see 'journalctl -u volchain.service'",
                               error.what());
        if (name.ends_with(".NoReply"))
            return fmt::format(
                "volchaind, or the message bus, ended before it answered ({}); see 'journalctl -u "
                "volchain.service'",
                error.what());
        return error.what();
    } catch (...) {
        return to_error(std::current_exception()).what();
    }
}

// --- options of methods --------------------------------------------------------------------------

MethodOptions& MethodOptions::text(const std::string& name) {
    if (const auto value = arguments_.value(name)) set(name, *value);
    return *this;
}

MethodOptions& MethodOptions::size(const std::string& name) {
    if (const auto value = arguments_.value(name)) set(name, parse_size(*value));
    return *this;
}

MethodOptions& MethodOptions::flag(const std::string& name) {
    if (arguments_.flag(name)) set(name, true);
    return *this;
}

MethodOptions& MethodOptions::duration(const std::string& name) {
    if (const auto value = arguments_.value(name)) set(name + "-usec", parse_duration(*value));
    return *this;
}

MethodOptions& MethodOptions::objects(const std::string& name, const std::vector<bus::ObjectPath>& all) {
    if (!all.empty()) set(name, all);
    return *this;
}

MethodOptions& MethodOptions::set(const std::string& name, bus::Variant value) {
    dict_.insert_or_assign(name, std::move(value));
    return *this;
}

}  // namespace volchain::client
