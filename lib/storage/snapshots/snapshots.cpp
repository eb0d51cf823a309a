// SPDX-License-Identifier: MIT
#include "storage/snapshots/snapshots.h"

#include "base/text.h"
#include "storage/vms/disk_snapshots.h"

namespace volchain::storage {

void check_snapshot_name(const Catalog& catalog, const Uuid& vm, const std::string& name) {
    check_name("snapshot", name);
    for (const Uuid& id : catalog.snapshots_of_vm(vm))
        if (catalog.snapshot(id).name == name)
            throw Error(ErrorCode::already_exists, "{} has a snapshot {} already ({})",
                        catalog.describe({ObjectKind::vm, vm}), quote(name), id.str());
}

void check_floating_snapshot_name(const Catalog& catalog, const Uuid& disk, const std::string& name) {
    check_name("snapshot", name);
    for (const Uuid& id : floating_snapshots(catalog, disk))
        if (catalog.snapshot(id).name == name)
            throw Error(ErrorCode::already_exists, "{} has a snapshot {} already ({})",
                        catalog.describe({ObjectKind::disk, disk}), quote(name), id.str());
}

void check_description(const std::string& description) {
    if (description.size() > max_description)
        throw Error(ErrorCode::invalid_argument, "option 'description': longer than {} bytes",
                    max_description);
}

namespace {

/// Whoever works on the snapshot's VM, or where it has none, on its disks, may be about to change it.
std::vector<ObjectId> owners_of(const SnapshotRecord& snapshot) {
    if (snapshot.vm) return {{ObjectKind::vm, snapshot.vm}};
    std::vector<ObjectId> disks;
    for (const SnapshotDisk& part : snapshot.disks) disks.push_back({ObjectKind::disk, part.disk});
    return disks;
}

void check_other_name(const Catalog& catalog, const SnapshotRecord& snapshot, const std::string& name) {
    if (snapshot.vm) return check_snapshot_name(catalog, snapshot.vm, name);
    check_name("snapshot", name);
    for (const SnapshotDisk& part : snapshot.disks) check_floating_snapshot_name(catalog, part.disk, name);
}

}  // namespace

async::Task<> set_snapshot_metadata(Engine& engine, Uuid id, std::optional<std::string> name,
                                    std::optional<std::string> description) {
    SnapshotRecord snapshot = engine.catalog().snapshot(id);
    const auto held = engine.locks().take(owners_of(snapshot), "a snapshot being renamed", Uuid{});
    if (name && *name != snapshot.name) {
        check_other_name(engine.catalog(), snapshot, *name);
        snapshot.name = *std::move(name);
    }
    if (description) {
        check_description(*description);
        snapshot.description = *std::move(description);
    }
    Changes changes;
    if (snapshot.vm) changes.put(ManifestStale{snapshot.vm, true});
    changes.put(std::move(snapshot));
    co_await engine.catalog().commit(std::move(changes), Durability::power);
    engine.write_manifests();
}

}  // namespace volchain::storage
