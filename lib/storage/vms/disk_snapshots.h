// SPDX-License-Identifier: MIT
//
// What becomes of snapshots when a disk comes to a VM, leaves it, or goes for good. Nothing is changed here: the caller
// commits. Parents stay what they are for: a snapshot's parent belongs to the same VM, or, like itself, to none.
#pragma once

#include <string>
#include <vector>

#include "storage/records/catalog.h"

namespace volchain::storage {

/// The snapshots that name the disk, oldest first.
[[nodiscard]] std::vector<Uuid> snapshots_with_disk(const Catalog& catalog, const Uuid& disk);
/// Those of them that are no VM's.
[[nodiscard]] std::vector<Uuid> floating_snapshots(const Catalog& catalog, const Uuid& disk);
/// The youngest floating snapshot of the disk whose volume is in the disk's active chain: the parent of the next one.
/// Nil where there is none.
[[nodiscard]] Uuid current_floating_snapshot(const Catalog& catalog, const Uuid& disk);
[[nodiscard]] std::vector<std::string> snapshot_names(const Catalog& catalog, const Uuid& vm);

/// The disk comes to the VM: snapshots of this disk alone that are no VM's become its. Where a name is in `taken`, which
/// is added to, they get another one.
void snapshots_come_along(const Catalog& catalog, const Uuid& disk, const Uuid& vm,
                          std::vector<std::string>& taken, Changes& changes);

/// The disk leaves its VM: the VM's snapshots of this disk alone go with it. What stood on one of them in the VM's tree
/// stands on its parent then. Other snapshots go on naming the disk.
void snapshots_go_along(const Catalog& catalog, const Uuid& disk, const Uuid& vm, Changes& changes);

/// The disk goes for good: snapshots that name it say instead why they do not have it; those that have no other disk go. Their
/// files that are no volumes.
std::vector<SnapshotFile> snapshots_lose_disk(const Catalog& catalog, const Uuid& disk, Changes& changes);

}  // namespace volchain::storage
