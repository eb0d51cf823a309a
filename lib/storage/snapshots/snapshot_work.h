// SPDX-License-Identifier: MIT
//
// The work on a snapshot, from its record to the end of its job, and after a crash (create_snapshot.h has the steps). What is
// to be done is decided, and the locks are held, by whoever calls it.
#pragma once

#include "storage/snapshots/snapshot_files.h"
#include "storage/vms/quiesce.h"
#include "storage/volumes/overlays.h"

namespace volchain::storage {

/// What it works on; the plan of the job. A class with constructors, so that it may be handed to coroutines.
struct SnapshotParts {
    SnapshotParts(Overlays planned, SnapshotFiles beside, const Uuid& made, QuiesceMode mode)
        : overlays(std::move(planned)), files(std::move(beside)), snapshot(made), quiesce(mode) {}
    SnapshotParts(Engine& engine, const JsonReader& plan);

    [[nodiscard]] Json plan() const;

    Overlays overlays;
    SnapshotFiles files;
    Uuid snapshot;
    QuiesceMode quiesce;  ///< off where the memory is kept
};

async::Task<> take_snapshot(Engine& engine, JobPtr job, SnapshotParts parts,
                            async::Clock::duration freeze_timeout);
async::Task<> settle_snapshot(Engine& engine, JobPtr job, SnapshotParts parts);

}  // namespace volchain::storage
