// SPDX-License-Identifier: MIT
//
// Adoption: the disks that a running VM's QEMU has, held against the records. Disks and layers that are found
// and not known become records (pool, disk, volumes), with their whole chains. What cannot become one is
// named, with the reason. Nothing is changed here: the caller commits.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "storage/records/catalog.h"
#include "storage/vms/live_disk.h"

namespace volchain::storage {

/// A guest's disk that volchain does not manage.
struct UnmanagedDevice {
    std::string device;
    std::string why;
    friend bool operator==(const UnmanagedDevice&, const UnmanagedDevice&) = default;
};

/// Which of the VM's live disks are disks of ours, and which are not.
/// Variable stores of its firmware are neither.
[[nodiscard]] std::vector<UnmanagedDevice> unmanaged_devices(const Catalog& catalog, const Uuid& vm,
                                                             const std::vector<LiveDisk>& disks);

struct Adoption {
    Changes changes;
    /// The new volumes, to be inspected before the changes are committed.
    std::vector<VolumeRecord> volumes;
    std::map<Uuid, std::string> pool_paths;  ///< of the volumes' pools, also the new ones
};

/// New records for all that is found and not known.
[[nodiscard]] Adoption adopt(const Catalog& catalog, const VmRecord& vm, const std::vector<LiveDisk>& disks);

/// A name for a pool or disk, made from `wanted`: valid, and not in `taken`.
[[nodiscard]] std::string free_name(const std::string& wanted, const std::vector<std::string>& taken);

}  // namespace volchain::storage
