// SPDX-License-Identifier: MIT
//
// Entries of sd-bus's own vtables (sd-bus-vtable.h), whose macros are for C. An array of them is start,
// entries, end; it and every string that it refers to must stay while it is registered. `userdata` is what
// the callback gets, instead of the pointer given at registration.
#pragma once

#include <systemd/sd-bus.h>

#include <cstdint>

namespace volchain::bus {

[[nodiscard]] sd_bus_vtable vtable_start() noexcept;
[[nodiscard]] sd_bus_vtable vtable_end() noexcept;

/// `names`: those of the arguments, then those of the results, each followed by NUL.
[[nodiscard]] sd_bus_vtable vtable_method(const char* name, const char* arguments, const char* results,
                                          const char* names, sd_bus_message_handler_t handler,
                                          const void* userdata, std::uint64_t flags) noexcept;
[[nodiscard]] sd_bus_vtable vtable_property(const char* name, const char* type, sd_bus_property_get_t get,
                                            const void* userdata, std::uint64_t flags) noexcept;
[[nodiscard]] sd_bus_vtable vtable_writable_property(const char* name, const char* type,
                                                     sd_bus_property_get_t get, sd_bus_property_set_t set,
                                                     const void* userdata, std::uint64_t flags) noexcept;
[[nodiscard]] sd_bus_vtable vtable_signal(const char* name, const char* types, const char* names) noexcept;

}  // namespace volchain::bus
