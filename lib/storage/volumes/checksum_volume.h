// SPDX-License-Identifier: MIT
//
// ChecksumVolume: a checksum of all that is seen through a volume (block_digest.h). The chain is opened in a storage daemon
// of its own, read-only, and read over NBD; what the daemon knows to be zero is not read. The volumes are held meanwhile
// (holds.h): a VM may run on top of them, but none of them can be merged or deleted. The active volume of a disk is held by
// QEMU's lock, too: its VM cannot be started.
//
// Steps: open, read. It changes nothing, so there is nothing to undo but a socket's file.
#pragma once

#include "storage/engine.h"
#include "storage/images/block_digest.h"

namespace volchain::storage {

struct ChecksumRequest {
    ChecksumAlgorithm algorithm = ChecksumAlgorithm::sha256;
    std::uint64_t speed = 0;  ///< bytes read a second; 0: without limit
    std::uint32_t owner_uid = 0;
};

/// The job's id. Its result: "algorithm", "checksum", "bytes" (of the disk), "data-bytes" (that had to be read). Running
/// where a VM writes to the volume.
async::Task<Uuid> checksum_volume(Engine& engine, Uuid volume, ChecksumRequest request);

async::Task<> recover_checksum_volume(Engine& engine, JobPtr job);
[[nodiscard]] std::vector<ObjectId> locks_of_checksum_volume(const JobRecord& job);

}  // namespace volchain::storage
