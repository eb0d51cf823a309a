// SPDX-License-Identifier: MIT
//
// CreateSnapshot: one instant of a VM's disks, or of a floating disk, kept. The active volume of each disk becomes the snapshot's
// and is covered by a new overlay: in the running VM by one transaction, with the guest's file systems frozen
// where that is wanted and can be; offline under QEMU's own image locks.
//
// Steps: record, files, nodes, freeze, switch, thaw, finish. Everything slow is before the freeze; between
// freeze and thaw stands one QMP command. Up to the switch the operation is undone when it fails, is
// cancelled or was broken off by a crash; after it, it is finished. The exception: with quiesce=require, a
// guest that turns out not to have been frozen makes the snapshot fail after the switch; then the overlays
// are merged back (steps withdraw, merge).
//
// With memory: record, files, nodes, prepare, stop, switch, save, write, finish. Instead of being frozen the guest stands
// still from before the switch until QEMU has saved its devices, so that disks and RAM are of one instant; its RAM is
// written while it runs on (memory_writer.h). What goes wrong after the switch, a cancel among it, leaves a snapshot of the
// disks alone: the job says so and has not succeeded.
#pragma once

#include <string>
#include <vector>

#include "storage/snapshots/snapshot_request.h"

namespace volchain::storage {

/// The request for a snapshot of that disk alone: of its VM, or, where it floats, of nobody's.
[[nodiscard]] SnapshotRequest snapshot_of_disk(const Catalog& catalog, const Uuid& disk, std::string name);

/// The job's id. Its result: "snapshot"; "quiesce" where the guest was not frozen, with the reason;
/// "frozen-usec" where it was, with how long; "switch-usec", the part of that which QEMU took for the switch; with memory
/// what MemoryWriter reports, and "memory-bytes".
async::Task<Uuid> create_snapshot(Engine& engine, SnapshotRequest request);

/// Carries on or undoes one that was broken off.
async::Task<> recover_create_snapshot(Engine& engine, JobPtr job);

/// The objects that such a job has locked.
[[nodiscard]] std::vector<ObjectId> locks_of_create_snapshot(const JobRecord& job);

}  // namespace volchain::storage
