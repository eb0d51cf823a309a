// SPDX-License-Identifier: MIT
//
// CreateDisk: a new, empty disk of one volume. The file is made by us (O_EXCL, owner and mode as configured),
// its content by a storage daemon (blockdev-create). Steps: record, file, format, finish.
#pragma once

#include "storage/volumes/new_image.h"

namespace volchain::storage {

struct DiskRequest {
    DiskRequest(const Uuid& in, std::string called, std::uint64_t bytes)
        : pool(in), name(std::move(called)), image(bytes) {}

    Uuid pool;
    std::string name;
    ImageOptions image;
    std::uint32_t owner_uid = 0;
};

/// The job's id. Its result: "disk", "volume".
async::Task<Uuid> create_disk(Engine& engine, DiskRequest request);
async::Task<> recover_create_disk(Engine& engine, JobPtr job);
[[nodiscard]] std::vector<ObjectId> locks_of_create_disk(const JobRecord& job);

/// AlreadyExists where a disk has this name.
void check_disk_name_free(const Catalog& catalog, const std::string& name);

}  // namespace volchain::storage
