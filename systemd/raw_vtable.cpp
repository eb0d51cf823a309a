// SPDX-License-Identifier: MIT
#include "systemd/raw_vtable.h"

#include <cstring>

namespace volchain::bus {
namespace {

constexpr std::uint64_t flag_bits = (std::uint64_t{1} << 56) - 1;

/// Unused parts of the union must be zero (sd-bus-vtable.h).
sd_bus_vtable blank(std::uint8_t type, std::uint64_t flags) noexcept {
    sd_bus_vtable entry;
    std::memset(&entry, 0, sizeof entry);
    entry.type = type;
    entry.flags = flags & flag_bits;
    return entry;
}

/// With SD_BUS_VTABLE_ABSOLUTE_OFFSET the offset itself is the userdata.
std::size_t offset(const void* userdata) noexcept {
    return reinterpret_cast<std::size_t>(userdata);
}

}  // namespace

sd_bus_vtable vtable_start() noexcept {
    sd_bus_vtable entry = blank(_SD_BUS_VTABLE_START, 0);
    entry.x.start.element_size = sizeof(sd_bus_vtable);
    entry.x.start.features = _SD_BUS_VTABLE_PARAM_NAMES;
    entry.x.start.vtable_format_reference = &sd_bus_object_vtable_format;
    return entry;
}

sd_bus_vtable vtable_end() noexcept {
    return blank(_SD_BUS_VTABLE_END, 0);
}

sd_bus_vtable vtable_method(const char* name, const char* arguments, const char* results, const char* names,
                            sd_bus_message_handler_t handler, const void* userdata,
                            std::uint64_t flags) noexcept {
    sd_bus_vtable entry = blank(_SD_BUS_VTABLE_METHOD, flags | SD_BUS_VTABLE_ABSOLUTE_OFFSET);
    entry.x.method.member = name;
    entry.x.method.signature = arguments;
    entry.x.method.result = results;
    entry.x.method.handler = handler;
    entry.x.method.offset = offset(userdata);
    entry.x.method.names = names;
    return entry;
}

sd_bus_vtable vtable_property(const char* name, const char* type, sd_bus_property_get_t get,
                              const void* userdata, std::uint64_t flags) noexcept {
    sd_bus_vtable entry = blank(_SD_BUS_VTABLE_PROPERTY, flags | SD_BUS_VTABLE_ABSOLUTE_OFFSET);
    entry.x.property.member = name;
    entry.x.property.signature = type;
    entry.x.property.get = get;
    entry.x.property.offset = offset(userdata);
    return entry;
}

sd_bus_vtable vtable_writable_property(const char* name, const char* type, sd_bus_property_get_t get,
                                       sd_bus_property_set_t set, const void* userdata,
                                       std::uint64_t flags) noexcept {
    sd_bus_vtable entry = vtable_property(name, type, get, userdata, flags);
    entry.type = _SD_BUS_VTABLE_WRITABLE_PROPERTY;
    entry.x.property.set = set;
    return entry;
}

sd_bus_vtable vtable_signal(const char* name, const char* types, const char* names) noexcept {
    sd_bus_vtable entry = blank(_SD_BUS_VTABLE_SIGNAL, 0);
    entry.x.signal.member = name;
    entry.x.signal.signature = types;
    entry.x.signal.names = names;
    return entry;
}

}  // namespace volchain::bus
