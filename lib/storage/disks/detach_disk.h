// SPDX-License-Identifier: MIT
//
// DetachDisk: the disk of a VM floats from then on. Of a VM that is down that is a change of records. Out of one that runs
// it is unplugged: the guest is asked to let go of the device, then its nodes are taken out of QEMU. Snapshots of this disk
// alone go along.
//
// Steps: look, unplug, nodes, finish; of a VM that is down: finish. Until the guest has let go, all stays as it is when the
// operation fails; after that it is finished, also after a crash: QEMU's graph says on which side of it things are.
#pragma once

#include <optional>

#include "storage/engine.h"

namespace volchain::storage {

struct DetachRequest {
    explicit DetachRequest(const Uuid& which) : disk(which) {}

    Uuid disk;
    std::optional<async::Clock::duration> timeout;  ///< for the guest; none: as configured
    std::uint32_t owner_uid = 0;
};

/// The job's id. Its result: "disk".
async::Task<Uuid> detach_disk(Engine& engine, DetachRequest request);
async::Task<> recover_detach_disk(Engine& engine, JobPtr job);
[[nodiscard]] std::vector<ObjectId> locks_of_detach_disk(const JobRecord& job);

}  // namespace volchain::storage
