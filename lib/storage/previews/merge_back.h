// SPDX-License-Identifier: MIT
//
// Merge back: takes overlays away that a running VM has been switched to, by committing what was written to
// them since into the volumes below. It is how a snapshot is undone after the switch.
//
// First the snapshot's record goes and the overlays become ordinary layers of their disks; from then on the
// chain is right whatever happens, and merging is only tidying up. An overlay that cannot be merged stays as
// an unnamed layer, and the job's error says so.
#pragma once

#include "storage/volumes/overlays.h"

namespace volchain::storage {

/// Ends the job as failed for `reason`. Steps: withdraw, merge.
async::Task<> merge_back(Engine& engine, JobPtr job, Overlays& overlays, Uuid snapshot, Error reason);

/// The second half, also after a crash in it.
async::Task<> finish_merge_back(Engine& engine, JobPtr job, Overlays& overlays, Error reason);

}  // namespace volchain::storage
