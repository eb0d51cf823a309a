// SPDX-License-Identifier: MIT
//
// The operation that shows a snapshot's volume, or another one that nobody writes to, to a backup appliance. The volume and
// all that it stands on are held from then on (held_volumes.h).
//
// Steps: files (the overlay of a writable export), server (the storage daemon), graph (its nodes, the bitmap), show; of a
// file, mounter and mount; finish. A device has no server. What fails on the way, or is broken off by a crash, is undone:
// nothing is left of it. A device that the appliance turns out to have is finished instead.
#pragma once

#include "storage/exports/export_request.h"

namespace volchain::storage {

/// The job's id. Result: "export".
async::Task<Uuid> export_snapshot(Engine& engine, Uuid snapshot, Uuid disk, ExportRequest request);
async::Task<Uuid> export_volume(Engine& engine, Uuid volume, ExportRequest request);

async::Task<> recover_export_volume(Engine& engine, JobPtr job);
[[nodiscard]] std::vector<ObjectId> locks_of_export_volume(const JobRecord& job);

}  // namespace volchain::storage
