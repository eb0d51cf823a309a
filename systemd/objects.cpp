// SPDX-License-Identifier: MIT
#include "systemd/objects.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "base/error.h"
#include "base/log.h"
#include "systemd/bus_error.h"
#include "systemd/raw_vtable.h"
#include "systemd/wire_types.h"

namespace volchain::bus {
namespace {

std::uint64_t flags(Change change) noexcept {
    switch (change) {
        case Change::never:
            return SD_BUS_VTABLE_PROPERTY_CONST;
        case Change::signalled:
            return SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE;
        case Change::invalidated:
            return SD_BUS_VTABLE_PROPERTY_EMITS_INVALIDATION;
        case Change::silent:
            return 0;
    }
    return 0;
}

/// The failure being handled, in the form that sd-bus turns into a reply. Nothing is thrown through its
/// callbacks.
int fail(sd_bus_error* error) noexcept {
    try {
        const ErrorReply reply = error_reply(std::current_exception());
        return sd_bus_error_set(error, reply.name.c_str(), reply.text.c_str());
    } catch (...) {
        return -ENOMEM;
    }
}

/// A list as sd-bus wants and frees it: from malloc, ended by null. Null where there is no memory.
char** make_list(const std::vector<std::string>& items) noexcept {
    auto** list = static_cast<char**>(std::calloc(items.size() + 1, sizeof(char*)));
    if (list == nullptr) return nullptr;
    for (std::size_t i = 0; i < items.size(); ++i) {
        list[i] = ::strdup(items[i].c_str());
        if (list[i] != nullptr) continue;
        while (i > 0) std::free(list[--i]);
        std::free(static_cast<void*>(list));
        return nullptr;
    }
    return list;
}

}  // namespace

/// A family, and what it needs on the bus.
struct Objects::Kin {
    explicit Kin(Family wanted) : family(std::move(wanted)) {}

    [[nodiscard]] bool shows(Uuid id) const { return id && (id == leaving || family.exists(id)); }

    static int enumerate(sd_bus*, const char*, void* kin, char*** nodes, sd_bus_error* error) noexcept {
        try {
            const Family& family = static_cast<Kin*>(kin)->family;
            std::vector<std::string> paths;
            for (const Uuid id : family.list()) paths.push_back(object_path(family.prefix, id).str());
            *nodes = make_list(paths);
            return *nodes == nullptr ? -ENOMEM : 0;
        } catch (...) {
            return fail(error);
        }
    }

    Family family;
    Slot enumerator;
    /// Shown once more although it is gone: sd-bus looks it up for the list of interfaces in
    /// InterfacesRemoved.
    Uuid leaving;
};

/// One interface of one object or family. It stays where it is: sd-bus has pointers into it.
struct Objects::Registration {
    Registration(Objects& owner, Kin* family, std::string at, InterfaceTable wanted);
    Registration(const Registration&) = delete;
    Registration& operator=(const Registration&) = delete;

    struct Method {
        Registration* registration;
        const InterfaceTable::Method* declared;
    };
    struct Property {
        Registration* registration;
        const InterfaceTable::Property* declared;
    };

    [[nodiscard]] Uuid id_in(const char* of) const {
        return kin == nullptr ? Uuid() : object_id(kin->family.prefix, of).value_or(Uuid());
    }

    static int find(sd_bus*, const char* at, const char*, void* self, void** found,
                    sd_bus_error* error) noexcept;
    static int call(sd_bus_message* message, void* method, sd_bus_error* error) noexcept;
    static int get(sd_bus*, const char* path, const char*, const char*, sd_bus_message* reply, void* property,
                   sd_bus_error* error) noexcept;

    Objects* objects;
    Kin* kin;          // null for an object that is one of its kind
    std::string path;  // of such an object; of a family, what is before the ids
    InterfaceTable table;
    std::vector<Method> methods;
    std::vector<Property> properties;
    std::vector<sd_bus_vtable> vtable;
    Slot slot;
};

Objects::Registration::Registration(Objects& owner, Kin* family, std::string at, InterfaceTable wanted)
    : objects(&owner), kin(family), path(std::move(at)), table(std::move(wanted)) {
    const auto wants_id = [](const auto& member) { return member.takes_id; };
    if (kin == nullptr && (std::any_of(table.methods.begin(), table.methods.end(), wants_id) ||
                           std::any_of(table.properties.begin(), table.properties.end(), wants_id)))
        throw Error(ErrorCode::internal, "interface {} is made for a family of objects", table.name);
    methods.reserve(table.methods.size());
    properties.reserve(table.properties.size());
    vtable.push_back(vtable_start());
    for (const InterfaceTable::Method& method : table.methods) {
        // The gate decides, not the capabilities of the caller.
        vtable.push_back(vtable_method(
            method.name.c_str(), method.arguments.c_str(), method.results.c_str(), method.names.c_str(), call,
            &methods.emplace_back(Method{this, &method}), SD_BUS_VTABLE_UNPRIVILEGED));
    }
    for (const InterfaceTable::Property& property : table.properties)
        vtable.push_back(vtable_property(property.name.c_str(), property.type.c_str(), get,
                                         &properties.emplace_back(Property{this, &property}),
                                         flags(property.change)));
    for (const InterfaceTable::Signal& signal : table.signals)
        vtable.push_back(vtable_signal(signal.name.c_str(), signal.types.c_str(), signal.names.c_str()));
    vtable.push_back(vtable_end());
}

int Objects::Registration::find(sd_bus*, const char* path, const char*, void* self, void** found,
                                sd_bus_error* error) noexcept {
    try {
        const auto* registration = static_cast<Registration*>(self);
        *found = self;
        return registration->kin->shows(registration->id_in(path)) ? 1 : 0;
    } catch (...) {
        return fail(error);
    }
}

int Objects::Registration::call(sd_bus_message* message, void* method, sd_bus_error* error) noexcept {
    try {
        const Method& called = *static_cast<Method*>(method);
        const Registration& registration = *called.registration;
        Objects& objects = *registration.objects;
        const Uuid id = registration.id_in(sd_bus_message_get_path(message));
        const auto* exists = registration.kin == nullptr ? nullptr : &registration.kin->family.exists;
        Call incoming(objects.connection_, Message::share(message), id);
        if (objects.requests_.start(*called.declared, registration.table.object, exists, std::move(incoming)))
            return 1;
        return sd_bus_error_set(error, SD_BUS_ERROR_LIMITS_EXCEEDED,
                                "Too many calls are being served; wait for the answers to some of them");
    } catch (...) {
        return fail(error);
    }
}

int Objects::Registration::get(sd_bus*, const char* path, const char*, const char*, sd_bus_message* reply,
                               void* property, sd_bus_error* error) noexcept {
    try {
        const Property& wanted = *static_cast<Property*>(property);
        Message value = Message::share(reply);
        wanted.declared->get(wanted.registration->table.object, wanted.registration->id_in(path), value);
        return 1;
    } catch (...) {
        return fail(error);
    }
}

// --- registering ---------------------------------------------------------------------------------

Objects::Objects(Connection& connection, const std::string& root, Gate& gate, Limits limits)
    : connection_(connection), requests_(connection, gate, limits, [this] {
          if (settle_) settle_();
          flush_changes();
      }) {
    sd_bus_slot* slot = nullptr;
    const int result = sd_bus_add_object_manager(connection_.native(), &slot, root.c_str());
    if (result < 0) throw system_error(-result, fmt::format("cannot show {} on the bus", root));
    manager_.reset(slot);
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

Objects::Values Objects::values_of(const std::string& path) {
    Uuid id;
    const Kin* kin = kin_of(path, id);
    Values values;
    if (kin != nullptr && !kin->shows(id)) return values;  // gone: its getters would not know it
    for (const Registration& registration : registrations_) {
        if (registration.kin != kin || (kin == nullptr && registration.path != path)) continue;
        for (const InterfaceTable::Property& property : registration.table.properties)
            if (property.change == Change::signalled || property.change == Change::invalidated)
                values.emplace(std::pair(registration.table.name, property.name),
                               property.value(registration.table.object, id));
    }
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
    before = std::move(now);
}

void Objects::flush_changes() {
    for (const auto& [where, properties] : std::exchange(changes_, {})) {
        const auto& [path, interface] = where;
        Uuid id;
        const Kin* kin = kin_of(path, id);
        if (kin != nullptr && !kin->shows(id)) continue;  // gone in the meantime, which removed() tells
        std::vector<char*> names;
        for (const std::string& property : properties) names.push_back(const_cast<char*>(property.c_str()));
        names.push_back(nullptr);
        const int result = sd_bus_emit_properties_changed_strv(connection_.native(), path.c_str(),
                                                               interface.c_str(), names.data());
        sent(result, path);
    }
}

void Objects::added(const std::string& path) {
    flush_changes();
    Uuid id;
    const Kin* kin = kin_of(path, id);
    if (kin != nullptr && !kin->shows(id)) return;  // came and went
    sent(sd_bus_emit_object_added(connection_.native(), path.c_str()), path);
    remember(path);
}

void Objects::removed(const std::string& path) {
    flush_changes();
    remembered_.erase(path);
    Uuid id;
    Kin* kin = kin_of(path, id);
    if (kin != nullptr) kin->leaving = id;
    sent(sd_bus_emit_object_removed(connection_.native(), path.c_str()), path);
    if (kin != nullptr) kin->leaving = Uuid();
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
    sent(sd_bus_send(connection_.native(), message.get(), nullptr), message.member());
}

void Objects::sent(int result, std::string_view what) {
    connection_.kick();
    // A bus that has gone was told to the owner of the connection.
    if (result < 0 && result != -ENOTCONN && result != -ECONNRESET)
        log().error("{}", system_error(-result, fmt::format("cannot tell the bus about {}", what)).what());
}

}  // namespace volchain::bus
