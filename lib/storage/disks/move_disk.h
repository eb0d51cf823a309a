// SPDX-License-Identifier: MIT
//
// MoveDisk: a disk's volumes go to another pool, while its VM runs or while it is down: all of them, so that the disk's
// snapshots are what they were, or, collapsed, only what the disk shows now, as one volume that stands on nothing; then
// snapshots stay where they are.
//
// Steps: look, copy, then of a VM that runs: nodes, mirror, switch; then finish, unlink. What nobody writes to is copied as
// files; what the guest writes to is mirrored, and the guest passes to the copy in one moment. Until the new places are
// recorded, or that moment, a cancel or a crash takes the copies away; after it the operation is finished.
#pragma once

#include "storage/disks/move_plan.h"
#include "storage/engine.h"

namespace volchain::storage {

/// The job's id. Its result: "volumes": how many files moved.
async::Task<Uuid> move_disk(Engine& engine, MoveRequest request);
async::Task<> recover_move_disk(Engine& engine, JobPtr job);
[[nodiscard]] std::vector<ObjectId> locks_of_move_disk(const JobRecord& job);

}  // namespace volchain::storage
