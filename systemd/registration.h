// SPDX-License-Identifier: MIT
//
// Kin and Registration: a family of objects, and one interface of one object or family, in the form in which
// sd-bus serves them; the inside of Objects. sd-bus has pointers into both, so they stay where they are.
#pragma once

#include <systemd/sd-bus.h>

#include <string>
#include <utility>
#include <vector>

#include "systemd/bus_pump.h"
#include "systemd/objects.h"

namespace volchain::bus {

/// The failure being handled, in the form that sd-bus turns into a reply. Nothing is thrown through its
/// callbacks.
int fail(sd_bus_error* error) noexcept;

struct Objects::Kin {
    explicit Kin(Family wanted) : family(std::move(wanted)) {}

    [[nodiscard]] bool shows(Uuid id) const { return id && family.exists(id); }

    static int enumerate(sd_bus*, const char*, void* kin, char*** nodes, sd_bus_error* error) noexcept;

    Family family;
    Slot enumerator;
};

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

}  // namespace volchain::bus
