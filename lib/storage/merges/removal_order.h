// SPDX-License-Identifier: MIT
//
// RemovalOrder: all that a job by which volumes go (remove_volumes.h) has to remember: what was asked for, how far it is.
// A value, kept in the job's plan; it does nothing by itself.
#pragma once

#include <optional>
#include <set>
#include <vector>

#include "storage/images/doomed_files.h"
#include "storage/merges/merge_step.h"

namespace volchain::storage {

struct DiskWork {
    Uuid disk;
    std::set<Uuid> unwanted;         ///< volumes that are to go
    std::optional<MergeStep> first;  ///< a step that is not found by looking for unwanted volumes
    bool upwards =
        false;  ///< the guest writes faster than its data can be written down: it is left where it is
};

struct DoomedSnapshot {
    Uuid id;
    SnapshotStatus before{};
    std::size_t parts = 0;  ///< disks, when it began
};

struct RemovalOrder {
    std::vector<DiskWork> disks;
    std::vector<DoomedSnapshot> snapshots;
    Direction direction = Direction::automatic;
    bool only_drop = false;  ///< unwanted volumes go only where nothing stands on them
    std::uint64_t speed = 0;
    std::uint64_t copied = 0;
    Uuid result;  ///< a volume
    std::vector<ObjectId> locks;
    std::optional<MergeStep> step;  ///< the one under way
    DoomedFiles files;              ///< of the one before

    [[nodiscard]] Json json() const;
    [[nodiscard]] static RemovalOrder parse(const Json& plan);
};

/// The volumes that the order is known to change. What is done on the way to that changes nothing else that anybody could
/// hold: who holds a volume that stands on one that is to go, holds that one, too.
[[nodiscard]] std::set<Uuid> changed_by(const RemovalOrder& order);

}  // namespace volchain::storage
