// SPDX-License-Identifier: MIT
//
// ImportDisk with "copy": an image that lies anywhere, and is not to be touched, is copied into a pool with the chain below
// it (copied_chain.h), and the copies become a disk.
//
// Steps: read (the chain is judged, the room measured), copy, rebase (the copies' headers name each other), finish. What
// fails or is broken off leaves no file.
#pragma once

#include "storage/disks/import_disk.h"

namespace volchain::storage {

/// The operation itself, of a job that import_disk() has started.
async::Task<> copy_and_import(Engine& engine, JobPtr job, ImportRequest request);

/// Of an import of either kind: one in place has made nothing.
async::Task<> recover_import_disk(Engine& engine, JobPtr job);
[[nodiscard]] std::vector<ObjectId> locks_of_import_disk(const JobRecord& job);

}  // namespace volchain::storage
