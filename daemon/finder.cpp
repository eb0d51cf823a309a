// SPDX-License-Identifier: MIT
#include "daemon/finder.h"

#include <algorithm>

#include "base/text.h"

namespace volchain::daemon {
namespace {

using storage::Catalog;
using storage::ObjectKind;

/// Shorter ones would be names more often than beginnings of an id.
constexpr std::size_t min_prefix = 4;

struct Named {
    Uuid id;
    std::string name;
};

template <typename T>
std::vector<Named> by_name(const std::map<Uuid, T>& records) {
    std::vector<Named> all;
    for (const auto& [id, record] : records) all.push_back({id, record.name});
    return all;
}

std::vector<Named> objects_of(const Catalog& catalog, ObjectKind kind) {
    std::vector<Named> all;
    switch (kind) {
        case ObjectKind::pool:
            return by_name(catalog.pools());
        case ObjectKind::disk:
            return by_name(catalog.disks());
        case ObjectKind::vm:
            return by_name(catalog.vms());
        case ObjectKind::snapshot:
            return by_name(catalog.snapshots());
        case ObjectKind::schedule:
            return by_name(catalog.schedules());
        case ObjectKind::volume:
            for (const auto& [id, volume] : catalog.volumes()) all.push_back({id, catalog.path(volume)});
            return all;
        case ObjectKind::exported:
            for (const auto& [id, record] : catalog.exports()) all.push_back({id, {}});
            return all;
        case ObjectKind::backup:
            for (const auto& [id, record] : catalog.backups()) all.push_back({id, {}});
            return all;
        case ObjectKind::job:
            for (const auto& [id, job] : catalog.jobs()) all.push_back({id, {}});
            return all;
    }
    return all;
}

/// An id as it stands in an object path is one too.
std::string with_dashes(std::string id) {
    std::replace(id.begin(), id.end(), '_', '-');
    return id;
}

std::vector<Uuid> matches(const Catalog& catalog, ObjectKind kind, const std::string& what) {
    // An object that is called like the id of another one does not stand in its way.
    if (const auto id = Uuid::parse(with_dashes(what)); id && catalog.has({kind, *id})) return {*id};
    const std::vector<Named> all = objects_of(catalog, kind);
    std::vector<Uuid> found;
    for (const Named& object : all)
        if (!object.name.empty() && object.name == what) found.push_back(object.id);
    if (found.empty() && kind == ObjectKind::disk)
        if (const auto* volume = catalog.find_volume(what)) found.push_back(volume->disk);
    if (!found.empty()) return found;
    std::string prefix = with_dashes(what);
    std::transform(prefix.begin(), prefix.end(), prefix.begin(),
                   [](unsigned char c) { return std::tolower(c); });
    for (const Named& object : all)
        if (prefix.size() >= min_prefix && object.id.str().starts_with(prefix)) found.push_back(object.id);
    return found;
}

}  // namespace

Uuid find_object(const Catalog& catalog, ObjectKind kind, const std::string& what) {
    const std::vector<Uuid> found = matches(catalog, kind, what);
    if (found.empty()) throw Error(ErrorCode::not_found, "there is no {} {}", word(kind), quote(what));
    if (found.size() == 1) return found.front();
    std::vector<std::string> names;
    for (const Uuid& id : found) names.push_back(catalog.describe({kind, id}));
    throw Error(ErrorCode::invalid_argument, "{} may mean {}; use the id", quote(what),
                joined(names, " or "));
}

}  // namespace volchain::daemon
