// SPDX-License-Identifier: MIT
//
// MergeStep: one change of a disk's tree of volumes by which volumes go that are not wanted any more, without a change of
// what any volume that stays shows. Planned from the headers as they are (next_merge_step()), one after the other, each
// when the one before is done; carried out by Merge (merge.h). A value, kept in the plan of its job.
//
//     commit    `upper` is written down into `lower`, which then shows what upper showed: lower takes upper's place,
//               upper and all between them go
//     stream    what `upper` has not of its own is copied up into it, down to `lower` (nil: all of it), on which it stands
//               afterwards; what was between them goes where nothing else stands on it
//     drop      a volume on which nothing stands goes
//     keep      a volume on which several stand stays, as a leftover
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/enum_names.h"
#include "storage/engine.h"

namespace volchain::storage {

enum class MergeKind { commit, stream, drop, keep };
constexpr auto enum_names(MergeKind) {
    return std::to_array<EnumName<MergeKind>>({{MergeKind::commit, "commit"},
                                               {MergeKind::stream, "stream"},
                                               {MergeKind::drop, "drop"},
                                               {MergeKind::keep, "keep"}});
}

/// Which way a volume is merged with the one that stands on it.
enum class Direction { automatic, commit, stream };
constexpr auto enum_names(Direction) {
    return std::to_array<EnumName<Direction>>(
        {{Direction::automatic, "auto"}, {Direction::commit, "commit"}, {Direction::stream, "stream"}});
}

struct MergeStep {
    MergeKind kind{};
    Uuid disk;
    Uuid upper;
    Uuid lower;
    std::vector<Uuid>
        children;  ///< of a commit's upper volume, at the beginning: what has to stand on lower at the end
    std::vector<Uuid> released;  ///< volumes that are in upper's chain no more, the topmost first
    std::vector<Uuid> removed;   ///< volumes that are gone afterwards
    std::vector<Uuid> settled;   ///< of those that were to go: what this step is about
    std::uint64_t cost = 0;      ///< bytes to be copied, at most

    [[nodiscard]] Json json() const;
    [[nodiscard]] static MergeStep parse(const JsonReader& plan);
};

/// What of a disk's volumes a plan has to look out for.
struct MergeLimits {
    std::set<Uuid>
        recorded;  ///< with bitmaps that record: where it makes a difference for these, they decide the direction
    std::set<Uuid> held;  ///< by somebody who reads them (holds.h)
};

/// The next step towards a tree without the volumes `unwanted`, all of the disk `disk`; none when there is nothing left to
/// do. Leftovers of the disk that are needed no more, and that nobody holds, go, too. Throws InUse where a volume of another
/// disk stands in the way, Unsupported where the direction asked for is not possible.
[[nodiscard]] std::optional<MergeStep> next_merge_step(const Catalog& catalog, const Uuid& disk,
                                                       const std::set<Uuid>& unwanted, Direction direction,
                                                       const MergeLimits& limits);

/// Of the volumes that a VM has open the bitmaps are those that QEMU tells of; what it holds of them is in no file yet.
[[nodiscard]] async::Task<MergeLimits> merge_limits(Engine& engine, Uuid disk);

/// `upper` and all between it and `base` down into `base`. Throws InvalidArgument where base is not below upper, InUse
/// where what stands on a volume in between, or a snapshot, needs what would be written over.
[[nodiscard]] MergeStep commit_step(const Catalog& catalog, const Uuid& upper, const Uuid& base);

/// All that `upper` stands on, down to the bottom, up into it.
[[nodiscard]] MergeStep flatten_step(const Catalog& catalog, const Uuid& upper);

}  // namespace volchain::storage
