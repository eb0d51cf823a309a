// SPDX-License-Identifier: MIT
//
// Objects as a daemon would show them, made by hand.
#pragma once

#include <map>
#include <string>

#include "client/objects.h"

namespace volchain::client {

/// "/org/volchain1/vm/00000000_0000_4000_8000_000000000001" for ("vm", 1).
[[nodiscard]] inline bus::ObjectPath path_of(const std::string& kind, int number) {
    return bus::ObjectPath(fmt::format("{}/{}/00000000_0000_4000_8000_{:012}", root_path, kind, number));
}

[[nodiscard]] inline std::string id_number(int number) {
    return fmt::format("00000000-0000-4000-8000-{:012}", number);
}

/// Adds an object; "Id" is put in.
inline void put(Objects& objects, const std::string& kind, int number, bus::Dict properties) {
    properties.emplace("Id", id_number(number));
    std::map<std::string, bus::Dict> interfaces;
    interfaces.emplace(interface_of(kind), std::move(properties));
    objects.add(path_of(kind, number), interfaces);
}

}  // namespace volchain::client
