// SPDX-License-Identifier: MIT
//
// CheckDisk: finds what is wrong with a disk, and mends what is safe to mend where that is asked for. Records are held
// against headers, headers against the block graph of the running VM, images against themselves ("qemu-img check"), and the
// directories against the records. Without `repair` nothing is changed, in files, records and QEMU.
//
// It works while the VM runs, is down, or does not answer: what cannot be looked at is a finding itself. Cancelled, what was
// mended stays so.
//
// Steps: look (records, headers, QEMU), images, files, repair.
#pragma once

#include "storage/engine.h"

namespace volchain::storage {

struct CheckRequest {
    explicit CheckRequest(const Uuid& which) : disk(which) {}

    Uuid disk;
    bool repair = false;
    std::uint32_t owner_uid = 0;
};

/// The job's id. Its result: "findings", a list of records (Finding::json()).
async::Task<Uuid> check_disk(Engine& engine, CheckRequest request);
async::Task<> recover_check_disk(Engine& engine, JobPtr job);
[[nodiscard]] std::vector<ObjectId> locks_of_check_disk(const JobRecord& job);

}  // namespace volchain::storage
