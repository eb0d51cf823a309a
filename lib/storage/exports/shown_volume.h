// SPDX-License-Identifier: MIT
//
// What may be shown to others, by exports and by backups of snapshots: a volume to which nobody writes, now or later, and that no
// job is about to do away with. From then on it is held by the records of the exports (held_volumes.h).
#pragma once

#include <vector>

#include "storage/engine.h"

namespace volchain::storage {

/// The snapshot's volume of that disk. Busy where the snapshot is not whole, InvalidArgument where it has nothing of the disk.
[[nodiscard]] Uuid volume_of_snapshot(const Catalog& catalog, const Uuid& snapshot, const Uuid& disk);

/// InUse for one that is written to, or will be; BrokenChain where what it shows stands for nothing.
void check_immutable(const Catalog& catalog, const Uuid& volume);

/// Busy where a job works on one of them, or may.
void check_nobody_changes(const Engine& engine, const std::vector<Uuid>& chain);

}  // namespace volchain::storage
