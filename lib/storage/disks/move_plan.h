// SPDX-License-Identifier: MIT
//
// MovePlan: which volumes of a disk go where when it moves to another pool (move_disk.h), as its job remembers it. A value; whether
// that can be is found out from the records alone, nothing is looked at or changed here.
#pragma once

#include <string>
#include <vector>

#include "storage/records/catalog.h"
#include "storage/volumes/new_image.h"

namespace volchain::storage {

/// One volume that goes to another place.
struct MovedVolume {
    Uuid volume;
    std::string file;       ///< in the new pool
    std::string from_pool;  ///< directory
    std::string from_file;
};

/// What recovery needs. A class with a constructor, so that it may be handed to coroutines.
class MovePlan {
  public:
    MovePlan() = default;

    Uuid vm;
    Uuid pool;
    bool live = false;
    bool collapse = false;
    bool begun = false;      ///< nothing was in the new places, and what is there now is this job's
    bool switching = false;  ///< the guest may be on the new volume
    std::string prefix;      ///< of the new nodes in QEMU
    std::vector<MovedVolume> volumes;

    [[nodiscard]] const MovedVolume* find(const Uuid& volume) const;
    [[nodiscard]] NewFile place_of(const Catalog& catalog, const MovedVolume& moved) const;
    /// Where a volume of the disk's chain is then, also one that stays.
    [[nodiscard]] std::string new_path(const Catalog& catalog, const Uuid& volume) const;
    /// Of the active volume: whether its copy stands on nothing.
    [[nodiscard]] bool stands_alone(const Catalog& catalog, const Uuid& active) const;

    [[nodiscard]] Json json() const;
    [[nodiscard]] static MovePlan parse(const JobRecord& job);
};

struct MoveRequest {
    MoveRequest(const Uuid& which, const Uuid& to) : disk(which), pool(to) {}

    Uuid disk;
    Uuid pool;
    bool collapse = false;
    std::uint64_t speed = 0;  ///< bytes a second; 0: without limit
    std::uint32_t owner_uid = 0;
};

/// `live`: a VM runs on the disk. InvalidArgument, InUse, Unsupported, BrokenChain.
[[nodiscard]] MovePlan plan_move(const Catalog& catalog, const MoveRequest& request, bool live);

/// The image that holds all that a volume shows, and stands on nothing.
[[nodiscard]] ImageOptions standalone_image(const Catalog& catalog, const Uuid& volume);

}  // namespace volchain::storage
