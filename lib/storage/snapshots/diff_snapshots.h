// SPDX-License-Identifier: MIT
//
// DiffSnapshots: in which parts of which disks two snapshots differ, or a snapshot and what is there now, by the tables of
// the images alone. Both states of a disk stand on a volume that they have in common, if only on none: what was written
// above it on either side may differ, all else is the same. So nothing that differs is left out, but what was written and
// is the same as before is not found out. Where both read as zeroes, that is known to be the same.
#pragma once

#include <optional>

#include "storage/volumes/map_volume.h"

namespace volchain::storage {

/// Which of two states has a disk.
enum class DiskPresence { both, here, there };
constexpr auto enum_names(DiskPresence) {
    return std::to_array<EnumName<DiskPresence>>(
        {{DiskPresence::both, "both"}, {DiskPresence::here, "this"}, {DiskPresence::there, "other"}});
}

/// What becomes of one disk from the one state ("here") to the other ("there").
struct DiskDiff {
    Uuid disk;
    DiskPresence presence{};
    std::uint64_t size_here = 0;
    std::uint64_t size_there = 0;
    std::uint64_t bytes = 0;  ///< that may differ; of a disk that both have
    std::uint64_t extents = 0;
};

/// Of all disks of either. `there`: none for what the disks of the VM, or those that float, show now; where the VM runs,
/// what it wrote before the call counts. Timeout where there is too much to read.
async::Task<std::vector<DiskDiff>> diff_snapshots(Engine& engine, Uuid here, std::optional<Uuid> there);

struct DiffPage {
    /// Where the disk may differ, with what is there in the other state. What is behind the end of the smaller one counts
    /// as zeroes.
    std::vector<qcow2::ChainExtent> extents;
    std::optional<std::uint64_t> next;  ///< where to go on; none: that was all
};

/// The extents of one disk that both have, from `start` on, as many as map_volume() would return.
async::Task<DiffPage> diff_disk(Engine& engine, Uuid here, std::optional<Uuid> there, Uuid disk,
                                std::uint64_t start);

}  // namespace volchain::storage
