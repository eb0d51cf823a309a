// SPDX-License-Identifier: MIT
//
// Whether a VM goes on from the memory of a snapshot at its next start. That it is to (VmRecord::resumes_from) is recorded by
// the preview or the revert that brought the snapshot's disks back, and forgotten before the guest runs: once. That it may is
// looked at whenever it matters, as what a guest has in its memory of its disks must be what is on them: each disk of the
// VM is in the snapshot, and shows just what it held then, with nothing written since by whatever has run on it.
#pragma once

#include <string>

#include "storage/engine.h"

namespace volchain::storage {

/// The snapshot whose memory the VM is to go on from; null: none, or it is gone.
[[nodiscard]] const SnapshotRecord* due_memory(const Catalog& catalog, const Uuid& vm);

/// What of the records stands against the memory of a snapshot being loaded together with `disks` (disk -> snapshot) of the
/// VM; empty: nothing.
[[nodiscard]] std::string memory_misfit(const Catalog& catalog, const SnapshotRecord& snapshot,
                                        const std::map<Uuid, Uuid>& disks);

/// Why the memory that is due cannot be gone on from, by a look at the images and at its own file; empty: it can.
[[nodiscard]] async::Task<std::string> why_memory_is_void(Engine& engine, Uuid vm);

/// InUse where a VM is to go on from the memory of the snapshot, which is to be deleted.
void check_memory_not_due(const Catalog& catalog, const Uuid& snapshot);

}  // namespace volchain::storage
