// SPDX-License-Identifier: MIT
#include "daemon/paths.h"

#include "base/error.h"
#include "base/text.h"

namespace volchain::daemon {

using storage::ObjectKind;

std::string path_prefix(ObjectKind kind) {
    return fmt::format("{}/{}", root_path, word(kind));
}

std::string interface_name(ObjectKind kind) {
    if (kind == ObjectKind::vm) return "org.volchain1.VM";
    std::string name(word(kind));
    name.front() = static_cast<char>(name.front() - 'a' + 'A');
    return "org.volchain1." + name;
}

bus::ObjectPath object_path(ObjectKind kind, const Uuid& id) {
    return bus::object_path(path_prefix(kind), id);
}

std::vector<bus::ObjectPath> object_paths(ObjectKind kind, const std::vector<Uuid>& ids) {
    std::vector<bus::ObjectPath> paths;
    paths.reserve(ids.size());
    for (const Uuid& id : ids) paths.push_back(object_path(kind, id));
    return paths;
}

Uuid id_in(const bus::ObjectPath& path, ObjectKind kind, std::string_view argument) {
    const auto id = bus::object_id(path_prefix(kind), path.str());
    if (!id)
        throw Error(ErrorCode::invalid_argument, "argument '{}': {} is not the path of a {}", argument,
                    quote(path.str()), word(kind));
    return *id;
}

}  // namespace volchain::daemon
