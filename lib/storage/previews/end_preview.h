// SPDX-License-Identifier: MIT
//
// The two ends of a preview (preview.h).
//
// Commit: what is shown becomes the VM's state, and the snapshot that is shown its current one. The branch that the VM
// was on before goes, as far as nobody needs it (left_branch.h); or it is kept, and what no snapshot has of it becomes
// a snapshot of its own, a child of what was the current one. No file that a QEMU has open is touched, so the VM may
// run.
//
// Undo: the disks are on their former volumes again, the VM has its former configuration, and what was written
// meanwhile goes. The VM has to be down.
//
// Steps: record, lock, switch, unlink; where an undone preview had changed variable stores, nvram before unlink. The switch is
// one commit of the records: before it nothing is changed, after it only files are left to be removed.
#pragma once

#include "storage/engine.h"

namespace volchain::storage {

/// The job's id. Its result: "removed", the names of the snapshots that went; or "snapshot", the one that was made;
/// "not-removed": what was said of a file that could not be removed.
async::Task<Uuid> commit_preview(Engine& engine, Uuid vm, bool keep_branch, std::uint32_t owner_uid);
/// The job's id. Its result: "not-removed"; "not-restored" as in preview.h.
async::Task<Uuid> undo_preview(Engine& engine, Uuid vm, std::uint32_t owner_uid);

/// Of both. Their locks: locks_of_preview() in preview_state.h.
async::Task<> recover_end_of_preview(Engine& engine, JobPtr job);

}  // namespace volchain::storage
