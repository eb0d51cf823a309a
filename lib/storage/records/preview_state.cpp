// SPDX-License-Identifier: MIT
#include "storage/records/preview_state.h"

#include <algorithm>

namespace volchain::storage {
namespace {

bool names_volume(const SnapshotRecord& snapshot, const Uuid& volume) {
    return std::any_of(snapshot.disks.begin(), snapshot.disks.end(),
                       [&](const SnapshotDisk& part) { return part.volume == volume; });
}

}  // namespace

void check_no_preview(const Catalog& catalog, const Uuid& vm) {
    const auto found = catalog.vms().find(vm);
    if (found == catalog.vms().end() || !found->second.preview) return;
    throw Error(ErrorCode::busy, "{} shows a preview of {}: commit or undo the preview first",
                catalog.describe({ObjectKind::vm, vm}),
                catalog.describe({ObjectKind::snapshot, found->second.preview->snapshot}));
}

Uuid shown_volume(const Catalog& catalog, const Uuid& disk) {
    const DiskRecord& record = catalog.disk(disk);
    if (record.former.nil()) return {};
    const std::vector<Uuid> snapshots = catalog.snapshots_of_vm(record.vm);
    for (const Uuid& volume : catalog.chain(record.active))
        for (const Uuid& snapshot : snapshots)
            if (names_volume(catalog.snapshot(snapshot), volume)) return volume;
    return {};
}

std::set<Uuid> shown_snapshots(const Catalog& catalog, const Uuid& vm) {
    const auto& preview = catalog.vm(vm).preview;
    if (!preview) return {};
    std::set<Uuid> shown{preview->snapshot};
    for (const Uuid& disk : catalog.disks_of_vm(vm)) {
        const Uuid volume = shown_volume(catalog, disk);
        if (volume.nil()) continue;
        for (const Uuid& snapshot : catalog.snapshots_of_vm(vm))
            if (names_volume(catalog.snapshot(snapshot), volume)) shown.insert(snapshot);
    }
    return shown;
}

std::vector<ObjectId> vm_with_disks(const Catalog& catalog, const Uuid& vm) {
    std::vector<ObjectId> objects{{ObjectKind::vm, vm}};
    for (const Uuid& disk : catalog.disks_of_vm(vm)) objects.push_back({ObjectKind::disk, disk});
    return objects;
}

Json plan_of_locks(const std::vector<ObjectId>& locks) {
    Json all = Json::array();
    for (const ObjectId& object : locks) all.push_back(object_json(object));
    return all;
}

std::vector<ObjectId> locks_of_preview(const JobRecord& job) {
    const JsonReader plan(job.plan, "plan of job " + job.id.str(), ErrorCode::internal);
    std::vector<ObjectId> locks;
    for (const JsonReader& entry : plan.at("locked").elements()) {
        const auto kind = from_word<ObjectKind>(entry.at("kind").string());
        const auto id = Uuid::parse(entry.at("id").string());
        if (!kind || !id) entry.fail("an object");
        locks.push_back({*kind, *id});
    }
    return locks;
}

}  // namespace volchain::storage
