// SPDX-License-Identifier: MIT
#include "systemd/registration.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "base/error.h"
#include "systemd/bus_error.h"
#include "systemd/raw_vtable.h"

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

int fail(sd_bus_error* error) noexcept {
    try {
        const ErrorReply reply = error_reply(std::current_exception());
        return sd_bus_error_set(error, reply.name.c_str(), reply.text.c_str());
    } catch (...) {
        return -ENOMEM;
    }
}

int Objects::Kin::enumerate(sd_bus*, const char*, void* kin, char*** nodes, sd_bus_error* error) noexcept {
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

}  // namespace volchain::bus
