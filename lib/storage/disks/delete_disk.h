// SPDX-License-Identifier: MIT
//
// DeleteDisk: a disk that floats, or whose VM is down, goes for good: its volumes, their files, and its part in snapshots
// where that is said.
//
// Steps: lock, forget, unlink. QEMU's locks on all of its images prove that nobody has one open; then the records go in one
// commit, then the files. A crash before the commit leaves all as it was; after it, what is left of the files goes.
#pragma once

#include "storage/engine.h"

namespace volchain::storage {

struct DeleteRequest {
    explicit DeleteRequest(const Uuid& which) : disk(which) {}

    Uuid disk;
    bool snapshots = false;  ///< those that name the disk lose it
    std::uint32_t owner_uid = 0;
};

/// The job's id. Its result: "volumes": how many files went.
async::Task<Uuid> delete_disk(Engine& engine, DeleteRequest request);
async::Task<> recover_delete_disk(Engine& engine, JobPtr job);
[[nodiscard]] std::vector<ObjectId> locks_of_delete_disk(const JobRecord& job);

}  // namespace volchain::storage
