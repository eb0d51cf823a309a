// SPDX-License-Identifier: MIT
#include "storage/vms/disk_snapshots.h"

#include <algorithm>
#include <set>

#include "storage/vms/adoption.h"

namespace volchain::storage {
namespace {

constexpr const char* disk_was_deleted = "the disk was deleted";

bool names_disk(const SnapshotRecord& snapshot, const Uuid& disk) {
    return std::any_of(snapshot.disks.begin(), snapshot.disks.end(),
                       [&](const SnapshotDisk& part) { return part.disk == disk; });
}

bool has_no_other_disk(const SnapshotRecord& snapshot, const Uuid& disk) {
    return snapshot.disks.size() == 1 && snapshot.disks.front().disk == disk;
}

/// Whether it holds this disk and nothing else: memory and variable stores are of a VM.
bool is_of_disk_alone(const SnapshotRecord& snapshot, const Uuid& disk) {
    return has_no_other_disk(snapshot, disk) && snapshot.files.empty();
}

/// The snapshot, or else the nearest one above it in the tree, that is in the set or, with `in` false, is not; nil where
/// there is none.
Uuid nearest(const Catalog& catalog, Uuid snapshot, const std::set<Uuid>& set, bool in) {
    // A circle of parents cannot come about; it would end here all the same.
    for (std::size_t steps = 0; snapshot && steps <= catalog.snapshots().size(); ++steps) {
        if (!catalog.has({ObjectKind::snapshot, snapshot})) return {};
        if (set.contains(snapshot) == in) return snapshot;
        snapshot = catalog.snapshot(snapshot).parent;
    }
    return {};
}

/// VMs whose current snapshot is one of those that leave go back to the nearest one that stays.
void put_current_right(const Catalog& catalog, const std::set<Uuid>& leaving, Changes& changes) {
    for (const auto& [id, vm] : catalog.vms()) {
        if (!leaving.contains(vm.current_snapshot)) continue;
        VmRecord changed = vm;
        changed.current_snapshot = nearest(catalog, vm.current_snapshot, leaving, false);
        changes.put(std::move(changed)).put(ManifestStale{id, true});
    }
}

}  // namespace

std::vector<Uuid> snapshots_with_disk(const Catalog& catalog, const Uuid& disk) {
    std::vector<Uuid> found;
    for (const auto& [id, snapshot] : catalog.snapshots())
        if (names_disk(snapshot, disk)) found.push_back(id);
    std::stable_sort(found.begin(), found.end(), [&](const Uuid& a, const Uuid& b) {
        return catalog.snapshot(a).created < catalog.snapshot(b).created;
    });
    return found;
}

std::vector<Uuid> floating_snapshots(const Catalog& catalog, const Uuid& disk) {
    std::vector<Uuid> found = snapshots_with_disk(catalog, disk);
    std::erase_if(found, [&](const Uuid& id) { return !catalog.snapshot(id).vm.nil(); });
    return found;
}

Uuid current_floating_snapshot(const Catalog& catalog, const Uuid& disk) {
    const std::vector<Uuid> chain = catalog.chain(catalog.disk(disk).active);
    const std::vector<Uuid> all = floating_snapshots(catalog, disk);
    const auto in_chain = [&](const Uuid& id) {
        for (const SnapshotDisk& part : catalog.snapshot(id).disks)
            if (part.disk == disk && std::find(chain.begin(), chain.end(), part.volume) != chain.end())
                return true;
        return false;
    };
    const auto youngest = std::find_if(all.rbegin(), all.rend(), in_chain);
    return youngest == all.rend() ? Uuid{} : *youngest;
}

std::vector<std::string> snapshot_names(const Catalog& catalog, const Uuid& vm) {
    std::vector<std::string> names;
    for (const Uuid& id : catalog.snapshots_of_vm(vm)) names.push_back(catalog.snapshot(id).name);
    return names;
}

void snapshots_come_along(const Catalog& catalog, const Uuid& disk, const Uuid& vm,
                          std::vector<std::string>& taken, Changes& changes) {
    for (const Uuid& id : floating_snapshots(catalog, disk)) {
        SnapshotRecord snapshot = catalog.snapshot(id);
        if (!is_of_disk_alone(snapshot, disk)) continue;
        snapshot.vm = vm;
        if (std::find(taken.begin(), taken.end(), snapshot.name) != taken.end())
            snapshot.name = free_name(snapshot.name, taken);
        taken.push_back(snapshot.name);
        changes.put(std::move(snapshot));
    }
}

void snapshots_go_along(const Catalog& catalog, const Uuid& disk, const Uuid& vm, Changes& changes) {
    const std::vector<Uuid> of_vm = catalog.snapshots_of_vm(vm);
    std::set<Uuid> leaving;
    for (const Uuid& id : of_vm)
        if (is_of_disk_alone(catalog.snapshot(id), disk)) leaving.insert(id);
    for (const Uuid& id : of_vm) {
        SnapshotRecord snapshot = catalog.snapshot(id);
        const bool leaves = leaving.contains(id);
        const Uuid parent = nearest(catalog, snapshot.parent, leaving, leaves);
        if (!leaves && parent == snapshot.parent) continue;
        snapshot.parent = parent;
        if (leaves) snapshot.vm = Uuid{};
        changes.put(std::move(snapshot));
    }
    put_current_right(catalog, leaving, changes);
}

std::vector<SnapshotFile> snapshots_lose_disk(const Catalog& catalog, const Uuid& disk, Changes& changes) {
    std::set<Uuid> leaving;
    std::vector<SnapshotFile> files;
    for (const auto& [id, snapshot] : catalog.snapshots()) {
        if (!has_no_other_disk(snapshot, disk)) continue;
        leaving.insert(id);
        files.insert(files.end(), snapshot.files.begin(), snapshot.files.end());
    }
    for (const auto& [id, record] : catalog.snapshots()) {
        if (leaving.contains(id)) continue;
        const Uuid parent = nearest(catalog, record.parent, leaving, false);
        const bool loses = names_disk(record, disk);
        if (!loses && parent == record.parent) continue;
        SnapshotRecord snapshot = record;
        snapshot.parent = parent;
        std::erase_if(snapshot.disks, [&](const SnapshotDisk& part) { return part.disk == disk; });
        if (loses) snapshot.excluded.push_back({disk, disk_was_deleted});
        if (loses && snapshot.status == SnapshotStatus::ok) snapshot.status = SnapshotStatus::partial;
        if (snapshot.vm) changes.put(ManifestStale{snapshot.vm, true});
        changes.put(std::move(snapshot));
    }
    put_current_right(catalog, leaving, changes);
    for (const Uuid& id : leaving) changes.remove(ObjectKind::snapshot, id);
    return files;
}

}  // namespace volchain::storage
