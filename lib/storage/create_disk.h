// SPDX-License-Identifier: MIT
//
// CreateDisk: a new, empty disk of one volume. The file is made by us (O_EXCL, owner and mode as configured),
// its content by a storage daemon (blockdev-create). Steps: record, file, format, finish.
#pragma once

#include <optional>

#include "storage/engine.h"

namespace volchain::storage {

enum class Preallocation { off, metadata, falloc, full };
constexpr auto enum_names(Preallocation) {
    return std::to_array<EnumName<Preallocation>>({{Preallocation::off, "off"},
                                                   {Preallocation::metadata, "metadata"},
                                                   {Preallocation::falloc, "falloc"},
                                                   {Preallocation::full, "full"}});
}

struct DiskRequest {
    DiskRequest(const Uuid& in, std::string called, std::uint64_t bytes)
        : pool(in), name(std::move(called)), size(bytes) {}

    Uuid pool;
    std::string name;
    std::uint64_t size;
    VolumeFormat format = VolumeFormat::qcow2;
    Preallocation preallocation = Preallocation::off;
    std::optional<std::uint64_t> cluster_size;  ///< qcow2 only, as the two below
    bool extended_l2 = false;
    std::optional<std::string> compression;
    std::uint32_t owner_uid = 0;
};

/// The job's id. Its result: "disk", "volume".
async::Task<Uuid> create_disk(Engine& engine, DiskRequest request);
async::Task<> recover_create_disk(Engine& engine, JobPtr job);
[[nodiscard]] std::vector<ObjectId> locks_of_create_disk(const JobRecord& job);

/// AlreadyExists where a disk has this name.
void check_disk_name_free(const Catalog& catalog, const std::string& name);

}  // namespace volchain::storage
