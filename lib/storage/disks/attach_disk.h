// SPDX-License-Identifier: MIT
//
// AttachDisk: a floating disk becomes a VM's. Of a VM that is down that is a change of records. Into one that runs it is
// plugged: its chain is added to QEMU layer by layer, then a device on top. Snapshots of this disk alone come along.
//
// Steps: look, nodes, device, finish; of a VM that is down: finish. Once the device is there the operation is finished,
// also after a crash: QEMU's graph says whether it is.
#pragma once

#include "storage/engine.h"

namespace volchain::storage {

struct AttachRequest {
    AttachRequest(const Uuid& which, const Uuid& to, std::string where)
        : disk(which), vm(to), target(std::move(where)) {}

    Uuid disk;
    Uuid vm;
    std::string target;  ///< the device's serial; may be empty
    std::string device;  ///< QEMU's driver, for a VM that runs; empty: virtio-blk-pci
    std::string bus;     ///< to plug it into; empty: QEMU's choice, or a PCIe port that is free
    std::uint32_t owner_uid = 0;
};

/// The job's id. Its result: "disk"; where it was plugged in, "device": its id in QEMU.
async::Task<Uuid> attach_disk(Engine& engine, AttachRequest request);
async::Task<> recover_attach_disk(Engine& engine, JobPtr job);
[[nodiscard]] std::vector<ObjectId> locks_of_attach_disk(const JobRecord& job);

}  // namespace volchain::storage
