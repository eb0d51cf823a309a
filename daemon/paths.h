// SPDX-License-Identifier: MIT
//
// The names on the bus: the service, the interfaces, and the paths of objects.
#pragma once

#include <optional>
#include <string>

#include "storage/records/records.h"
#include "systemd/wire_types.h"

namespace volchain::daemon {

inline constexpr const char* service_name = "org.volchain1";
inline constexpr const char* root_path = "/org/volchain1";
inline constexpr const char* manager_interface = "org.volchain1.Manager";

/// "/org/volchain1/disk"
[[nodiscard]] std::string path_prefix(storage::ObjectKind kind);
/// "org.volchain1.Disk"
[[nodiscard]] std::string interface_name(storage::ObjectKind kind);

/// The path of an object, "/" for the nil id.
[[nodiscard]] bus::ObjectPath object_path(storage::ObjectKind kind, const Uuid& id);
[[nodiscard]] std::vector<bus::ObjectPath> object_paths(storage::ObjectKind kind,
                                                        const std::vector<Uuid>& ids);

/// The id in the path of an object of that kind. Throws InvalidArgument, naming the argument, for any other path.
[[nodiscard]] Uuid id_in(const bus::ObjectPath& path, storage::ObjectKind kind, std::string_view argument);

}  // namespace volchain::daemon
