// SPDX-License-Identifier: MIT
//
// Clone: new disks with the content of a snapshot, or of one volume. Of a VM's snapshot they are the disks of a new VM, which
// has the configuration that the snapshot was taken with and no sockets yet; else they float. A clone is a copy that stands on
// nothing, or, with `thin`, an overlay on the snapshot's volume, which cannot go then. What is copied is immutable: the VM may run
// on and take further snapshots.
//
// Steps: copy, or overlays; then record. Until the records are committed a cancel or a crash leaves nothing behind.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/enum_names.h"
#include "storage/volumes/new_image.h"

namespace volchain::storage {

/// What becomes of disks that several VMs may have open at once.
enum class ShareablePolicy { refuse, copy, skip };
constexpr auto enum_names(ShareablePolicy) {
    return std::to_array<EnumName<ShareablePolicy>>({{ShareablePolicy::refuse, "refuse"},
                                                     {ShareablePolicy::copy, "copy"},
                                                     {ShareablePolicy::skip, "skip"}});
}

struct CloneRequest {
    CloneRequest(const ObjectId& of, std::string called) : source(of), name(std::move(called)) {}

    ObjectId source;                         ///< snapshot or volume
    std::string name;                        ///< of the VM, or of the one disk that floats
    std::optional<Uuid> pool;                ///< none: that of each source
    std::map<Uuid, Uuid> pools;              ///< for single disks: disk -> pool
    std::optional<VolumeFormat> format;      ///< none: that of each source
    ImageOptions image{0};                   ///< for the rest; neither its size nor its format is looked at
    std::optional<std::vector<Uuid>> disks;  ///< none: all of the snapshot's
    bool thin = false;
    ShareablePolicy shareable = ShareablePolicy::refuse;
    std::uint64_t speed = 0;  ///< bytes a second; 0: without limit
    std::uint32_t owner_uid = 0;
};

/// The job's id. Its result: "vm" where one was made, "disks"; "left-out": what of the snapshot is not in the clone, and why;
/// "reflinked": how many disks did not have to be copied.
async::Task<Uuid> clone(Engine& engine, CloneRequest request);
async::Task<> recover_clone(Engine& engine, JobPtr job);
[[nodiscard]] std::vector<ObjectId> locks_of_clone(const JobRecord& job);

}  // namespace volchain::storage
