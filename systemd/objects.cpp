// SPDX-License-Identifier: MIT
#include "systemd/objects.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "systemd/registration.h"

namespace volchain::bus {
namespace {

constexpr const char* object_manager = "org.freedesktop.DBus.ObjectManager";

}  // namespace

// --- registering ---------------------------------------------------------------------------------

Objects::Objects(Connection& connection, const std::string& root, Gate& gate, Limits limits)
    : connection_(connection), root_(root), requests_(connection, gate, limits, [this] {
          if (settle_) settle_();
          flush_changes();
      }) {
    sd_bus_slot* slot = nullptr;
    int result = sd_bus_add_object_manager(connection_.native(), &slot, root.c_str());
    if (result < 0) throw system_error(-result, fmt::format("cannot show {} on the bus", root));
    manager_.reset(slot);
    result = sd_bus_add_filter(connection_.native(), &slot, answer, this);
    if (result < 0) throw system_error(-result, "cannot look at the messages of the bus");
    queries_.reset(slot);
}

Objects::~Objects() = default;

void Objects::add(const std::string& path, InterfaceTable table) {
    Registration& added = registrations_.emplace_back(*this, nullptr, path, std::move(table));
    sd_bus_slot* slot = nullptr;
    const int result = sd_bus_add_object_vtable(connection_.native(), &slot, path.c_str(),
                                                added.table.name.c_str(), added.vtable.data(), nullptr);
    if (result < 0) throw system_error(-result, fmt::format("cannot show {} at {}", added.table.name, path));
    added.slot.reset(slot);
}

void Objects::add_family(Family family, std::vector<InterfaceTable> tables) {
    Kin& kin = kin_.emplace_back(std::move(family));
    const std::string& prefix = kin.family.prefix;
    sd_bus_slot* slot = nullptr;
    int result =
        sd_bus_add_node_enumerator(connection_.native(), &slot, prefix.c_str(), Kin::enumerate, &kin);
    if (result < 0) throw system_error(-result, fmt::format("cannot list the objects at {}", prefix));
    kin.enumerator.reset(slot);
    for (InterfaceTable& table : tables) {
        Registration& added = registrations_.emplace_back(*this, &kin, prefix, std::move(table));
        result =
            sd_bus_add_fallback_vtable(connection_.native(), &slot, prefix.c_str(), added.table.name.c_str(),
                                       added.vtable.data(), Registration::find, &added);
        if (result < 0)
            throw system_error(-result, fmt::format("cannot show {} at {}", added.table.name, prefix));
        added.slot.reset(slot);
    }
}

std::set<Objects::MethodName> Objects::methods() const {
    std::set<MethodName> all;
    for (const Registration& registration : registrations_)
        for (const InterfaceTable::Method& method : registration.table.methods)
            all.insert(MethodName{registration.table.name, method.name});
    return all;
}

// --- telling -------------------------------------------------------------------------------------

Objects::Kin* Objects::kin_of(const std::string& path, Uuid& id) {
    for (Kin& kin : kin_) {
        const auto found = object_id(kin.family.prefix, path);
        if (!found) continue;
        id = *found;
        return &kin;
    }
    return nullptr;
}

const InterfaceTable& Objects::table(const std::string& interface) const {
    for (const Registration& registration : registrations_)
        if (registration.table.name == interface) return registration.table;
    throw Error(ErrorCode::internal, "there is no interface {}", interface);
}

void Objects::changed(const std::string& path, const std::string& interface, const std::string& property) {
    const auto& properties = table(interface).properties;
    const auto declared = std::find_if(properties.begin(), properties.end(),
                                       [&property](const auto& entry) { return entry.name == property; });
    if (declared == properties.end() || declared->change == Change::never)
        throw Error(ErrorCode::internal, "{} has no property {} that changes", interface, property);
    if (declared->change == Change::silent) return;
    if (changes_.empty()) {
        boost::asio::post(connection_.executor(), [this, alive = std::weak_ptr<bool>(alive_)] {
            if (!alive.expired()) flush_changes();
        });
    }
    changes_[{path, interface}].insert(property);
}

std::vector<const Objects::Registration*> Objects::registrations_of(const std::string& path, Uuid& id) {
    std::vector<const Registration*> all;
    const Kin* kin = kin_of(path, id);
    if (kin != nullptr && !kin->shows(id)) return all;
    for (const Registration& registration : registrations_)
        if (registration.kin == kin && (kin != nullptr || registration.path == path))
            all.push_back(&registration);
    return all;
}

/// Of a property whose getter fails there is none.
Objects::Values Objects::values_of(const std::string& path) {
    Uuid id;
    Values values;
    for (const Registration* registration : registrations_of(path, id))
        for (const InterfaceTable::Property& property : registration->table.properties)
            if (property.change == Change::signalled || property.change == Change::invalidated)
                if (auto value = value_of(*registration, property, id))
                    values.emplace(std::pair(registration->table.name, property.name), *std::move(value));
    return values;
}

void Objects::remember(const std::string& path) {
    remembered_[path] = values_of(path);
}

void Objects::compare(const std::string& path) {
    Values now = values_of(path);
    if (now.empty()) return;
    Values& before = remembered_[path];
    for (const auto& [where, value] : now) {
        const auto known = before.find(where);
        if (known == before.end() || !(known->second == value)) changed(path, where.first, where.second);
    }
    for (const auto& [where, value] : before)
        if (!now.contains(where)) changed(path, where.first, where.second);
    before = std::move(now);
}

void Objects::flush_changes() {
    for (const auto& [where, properties] : std::exchange(changes_, {}))
        tell_changed(where.first, where.second, properties);
}

void Objects::tell_changed(const std::string& path, const std::string& interface,
                           const std::set<std::string>& properties) {
    Uuid id;
    const auto registrations = registrations_of(path, id);
    const auto found = std::find_if(registrations.begin(), registrations.end(),
                                    [&](const auto* entry) { return entry->table.name == interface; });
    if (found == registrations.end()) return;  // gone in the meantime, which removed() tells
    std::vector<std::string> invalidated;
    Dict values;
    for (const InterfaceTable::Property& property : (*found)->table.properties) {
        if (!properties.contains(property.name)) continue;
        auto value = property.change == Change::invalidated ? std::nullopt : value_of(**found, property, id);
        if (!value) {
            invalidated.push_back(property.name);
            continue;
        }
        // What is told now need not be told again by the next compare().
        if (const auto known = remembered_.find(path); known != remembered_.end())
            known->second[{interface, property.name}] = *value;
        values.emplace(property.name, *std::move(value));
    }
    tell(path, [&] {
        Message signal = connection_.signal(path, "org.freedesktop.DBus.Properties", "PropertiesChanged");
        append(signal, interface);
        append(signal, values);
        append(signal, invalidated);
        return signal;
    });
}

void Objects::added(const std::string& path) {
    flush_changes();
    Uuid id;
    const auto registrations = registrations_of(path, id);
    if (registrations.empty()) return;  // came and went
    tell(path, [&] {
        Message signal = connection_.signal(root_, object_manager, "InterfacesAdded");
        append(signal, ObjectPath(path));
        append_interfaces(signal, registrations, id);
        return signal;
    });
    remember(path);
}

void Objects::removed(const std::string& path) {
    flush_changes();
    remembered_.erase(path);
    Uuid id;
    const Kin* kin = kin_of(path, id);
    std::vector<std::string> interfaces;
    for (const Registration& registration : registrations_)
        if (registration.kin == kin && (kin != nullptr || registration.path == path))
            interfaces.push_back(registration.table.name);
    tell(path, [&] {
        Message signal = connection_.signal(root_, object_manager, "InterfacesRemoved");
        append(signal, ObjectPath(path));
        append(signal, interfaces);
        return signal;
    });
}

Message Objects::make_signal(const std::string& path, const std::string& interface, const std::string& member,
                             std::string_view types) const {
    const auto& signals = table(interface).signals;
    const auto declared = std::find_if(signals.begin(), signals.end(),
                                       [&member](const auto& entry) { return entry.name == member; });
    if (declared == signals.end() || declared->types != types)
        throw Error(ErrorCode::internal, "{} has no signal {} of type '{}'", interface, member, types);
    return connection_.signal(path, interface, member);
}

void Objects::send_signal(const Message& message) {
    flush_changes();
    tell(message.path(), [&] { return Message::share(message.get()); });
}

void Objects::tell(const std::string& path, const std::function<Message()>& compose) noexcept {
    try {
        connection_.send(compose());
    } catch (const Error& error) {
        // A bus that has gone was told to the owner of the connection.
        if (error.code() != ErrorCode::unreachable) log().error("{} is not told of: {}", path, error.what());
    } catch (const std::exception& error) {
        log().error("{} is not told of: {}", path, error.what());
    }
}

}  // namespace volchain::bus
