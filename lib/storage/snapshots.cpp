// SPDX-License-Identifier: MIT
#include "storage/snapshots.h"

#include "base/text.h"

namespace volchain::storage {

void check_snapshot_name(const Catalog& catalog, const Uuid& vm, const std::string& name) {
    check_name("snapshot", name);
    for (const Uuid& id : catalog.snapshots_of_vm(vm))
        if (catalog.snapshot(id).name == name)
            throw Error(ErrorCode::already_exists, "{} has a snapshot {} already ({})",
                        catalog.describe({ObjectKind::vm, vm}), quote(name), id.str());
}

void check_description(const std::string& description) {
    if (description.size() > max_description)
        throw Error(ErrorCode::invalid_argument, "option 'description': longer than {} bytes",
                    max_description);
}

async::Task<> set_snapshot_metadata(Engine& engine, Uuid id, std::optional<std::string> name,
                                    std::optional<std::string> description) {
    SnapshotRecord snapshot = engine.catalog().snapshot(id);
    std::vector<ObjectId> locks{{ObjectKind::vm, snapshot.vm}};
    const auto held = engine.locks().take(std::move(locks), "a snapshot being renamed", Uuid{});
    if (name && *name != snapshot.name) {
        check_snapshot_name(engine.catalog(), snapshot.vm, *name);
        snapshot.name = *std::move(name);
    }
    if (description) {
        check_description(*description);
        snapshot.description = *std::move(description);
    }
    Changes changes;
    changes.put(ManifestStale{snapshot.vm, true});
    changes.put(std::move(snapshot));
    co_await engine.catalog().commit(std::move(changes), Durability::power);
    engine.write_manifests();
}

}  // namespace volchain::storage
