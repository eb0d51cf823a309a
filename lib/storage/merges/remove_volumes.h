// SPDX-License-Identifier: MIT
//
// The operations by which volumes go and what they hold stays where it is needed: snapshots deleted, volumes merged,
// committed and deleted, disks flattened. All are one kind of work: for each disk, MergeSteps one after the other
// (merge_step.h), each carried out (merge.h), then written down together with what it means for the records, then the
// files go.
//
// Each disk is settled for itself: what was done stays done when another disk fails, and the records say exactly how far
// each is. A snapshot whose deletion ended halfway is "failed", and can be deleted again.
//
// Steps: copy, bitmaps, switch, unlink; for each merge anew.
#pragma once

#include "storage/merges/merge_step.h"

namespace volchain::storage {

/// What the callers have in common.
struct MergeOptions {
    std::uint64_t speed = 0;  ///< bytes a second; 0: without limit
    std::uint32_t owner_uid = 0;
};

/// Deletes a snapshot, with `children` also those that were taken after it, down all branches. The job's id.
async::Task<Uuid> delete_snapshot(Engine& engine, Uuid snapshot, bool children, MergeOptions options);
/// Removes a volume that no snapshot names by merging it with what stands on it.
async::Task<Uuid> merge_volume(Engine& engine, Uuid volume, Direction direction, MergeOptions options);
/// Commits a volume, and all between, down into `base`. Result: "volume".
async::Task<Uuid> commit_volume(Engine& engine, Uuid volume, Uuid base, MergeOptions options);
/// Removes a volume on which nothing stands and that nobody names.
async::Task<Uuid> delete_volume(Engine& engine, Uuid volume, MergeOptions options);
/// Makes a disk's active volume hold everything itself. What it stood on and nobody else needs goes.
async::Task<Uuid> flatten_disk(Engine& engine, Uuid disk, MergeOptions options);

/// Whether such a job, as far as it is known now, writes to one of the volumes or does away with it. Leftovers that it
/// takes along are not known; it asks for each of them whether somebody holds it.
[[nodiscard]] bool changes_one_of(const JobRecord& job, const std::vector<Uuid>& volumes);

async::Task<> recover_remove_volumes(Engine& engine, JobPtr job);
[[nodiscard]] std::vector<ObjectId> locks_of_remove_volumes(const JobRecord& job);

}  // namespace volchain::storage
