// SPDX-License-Identifier: MIT
//
// Preview: a VM that is down shows the content of snapshots again. Each chosen disk gets a new overlay over its
// snapshot's volume; what was active is kept as the disk's former volume, until the preview is committed or undone
// (end_preview.h). Disks that are not chosen stay as they are. Revert: a preview and its commit in one.
//
// Steps: record, lock, files, bitmaps, switch; where variable stores come back, nvram; of a revert also unlink. The switch is
// one commit of the records: up to it the operation is undone, after it, it is finished.
#pragma once

#include <map>
#include <vector>

#include "storage/engine.h"

namespace volchain::storage {

struct PreviewRequest {
    explicit PreviewRequest(const Uuid& of) : vm(of) {}
    /// All disks of a snapshot that are still its VM's; the others are left out. Throws where there is none.
    [[nodiscard]] static PreviewRequest of_snapshot(const Catalog& catalog, const Uuid& snapshot,
                                                    bool with_config);

    Uuid vm;
    std::map<Uuid, Uuid> disks;  ///< disk -> snapshot
    /// The snapshot whose configuration the VM gets, and with it variable stores and memory; nil: it keeps its own.
    Uuid config_from;
    /// Whether it goes on from that snapshot's memory at its next start; none: where that can be.
    std::optional<bool> memory;
    std::vector<Uuid> left_out;  ///< disks that the result tells of
    std::uint32_t owner_uid = 0;
};

/// The job's id. Its result: "left-out"; "memory": why the snapshot's does not come along; "not-restored": what was said of
/// variable stores that could not be replaced.
async::Task<Uuid> preview(Engine& engine, PreviewRequest request);
/// The same; `keep_branch` as in end_preview.h. Its result: that, and what commit_preview() tells.
async::Task<Uuid> revert(Engine& engine, PreviewRequest request, bool keep_branch);

/// Of both. Their locks: locks_of_preview() in preview_state.h.
async::Task<> recover_preview(Engine& engine, JobPtr job);

/// Which snapshot the VM stands on when it shows several: the one that all others are ancestors of; where they are on
/// different branches, the one that the configuration is from; else the youngest. Disks that stayed as they are have
/// no say: what they stand on stays in the tree as it is.
[[nodiscard]] Uuid leading_snapshot(const Catalog& catalog, const std::map<Uuid, Uuid>& choice,
                                    const Uuid& config_from);

}  // namespace volchain::storage
