// SPDX-License-Identifier: MIT
//
// CreateOverlay: a new volume over a disk's active one, without a snapshot that names it; or a branch over
// another of its volumes. Steps as in create_snapshot.h, without a freeze.
#pragma once

#include "storage/volumes/overlays.h"

namespace volchain::storage {

struct OverlayRequest {
    explicit OverlayRequest(const Uuid& of) : disk(of) {}

    Uuid disk;
    Uuid backing;           ///< nil: the active volume
    bool activate = false;  ///< with `backing`: the new volume becomes the active one
    std::uint32_t owner_uid = 0;
};

/// The job's id. Its result: "volume".
async::Task<Uuid> create_overlay(Engine& engine, OverlayRequest request);
async::Task<> recover_create_overlay(Engine& engine, JobPtr job);
[[nodiscard]] std::vector<ObjectId> locks_of_create_overlay(const JobRecord& job);

}  // namespace volchain::storage
