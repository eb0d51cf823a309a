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
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "storage/overlays.h"
#include "storage/quiesce.h"

namespace volchain::storage {

struct SnapshotRequest {
    SnapshotRequest(const Uuid& of, std::string called) : vm(of), name(std::move(called)) {}

    Uuid vm;           ///< nil: `disks` has one, which floats
    std::string name;  ///< empty: the UTC time
    std::string description;
    std::optional<std::vector<Uuid>> disks;  ///< none: all of the VM
    std::vector<Uuid> exclude;
    QuiesceMode quiesce = QuiesceMode::automatic;
    std::optional<async::Clock::duration> freeze_timeout;
    OnDiskFailure on_disk_failure = OnDiskFailure::abort;
    std::uint32_t owner_uid = 0;
    Uuid schedule{};  ///< which takes it; nil: a user
};

/// The request for a snapshot of that disk alone: of its VM, or, where it floats, of nobody's.
[[nodiscard]] SnapshotRequest snapshot_of_disk(const Catalog& catalog, const Uuid& disk, std::string name);

/// The job's id. Its result: "snapshot"; "quiesce" where the guest was not frozen, with the reason;
/// "frozen-usec" where it was, with how long; "switch-usec", the part of that which QEMU took for the switch.
async::Task<Uuid> create_snapshot(Engine& engine, SnapshotRequest request);

/// Carries on or undoes one that was broken off.
async::Task<> recover_create_snapshot(Engine& engine, JobPtr job);

/// The objects that such a job has locked.
[[nodiscard]] std::vector<ObjectId> locks_of_create_snapshot(const JobRecord& job);

}  // namespace volchain::storage
