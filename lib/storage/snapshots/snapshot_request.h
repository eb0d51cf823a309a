// SPDX-License-Identifier: MIT
//
// SnapshotRequest: what a snapshot is to be, as its caller says, and what of that can be told to be wrong before anything is
// made. The operation is in create_snapshot.h.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "storage/engine.h"
#include "storage/vms/quiesce.h"
#include "storage/volumes/overlays.h"

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
    std::string checkpoint;  ///< one that begins at the snapshot's moment; empty: none
    bool memory = false;     ///< the RAM and the devices of the running VM, too
    std::uint32_t owner_uid = 0;
    Uuid schedule{};  ///< which takes it; nil: a user
};

/// AlreadyExists, InvalidArgument.
void check_new_name(const Catalog& catalog, const SnapshotRequest& request);
/// The disks that are meant; each must be one of the VM's.
[[nodiscard]] std::vector<Uuid> chosen_disks(const Catalog& catalog, const SnapshotRequest& request);
/// Memory is of use only with all disks of its instant: InvalidArgument, and NotRunning where there is none.
void check_memory_request(const Catalog& catalog, const SnapshotRequest& request,
                          const std::vector<Uuid>& disks, bool live);
/// Why a disk cannot take part, as far as that is known beforehand; none where it can.
[[nodiscard]] std::optional<Error> unfit(Engine& engine, const Uuid& vm, const Uuid& disk, bool live);
/// Devices that are no disks of ours would be missing in a snapshot of "all disks": that is said, not passed over.
[[nodiscard]] std::vector<ExcludedDisk> strangers(Engine& engine, const SnapshotRequest& request, bool live);
/// The record, as it is while the snapshot is made.
[[nodiscard]] SnapshotRecord new_snapshot(Engine& engine, const SnapshotRequest& request);

}  // namespace volchain::storage
