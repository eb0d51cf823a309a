// SPDX-License-Identifier: MIT
//
// Which preview a VM shows, read from the records and the headers. A previewed disk is one with a former volume;
// what it shows is not recorded but follows from its chain. And what the operations on previews have locked.
#pragma once

#include <set>
#include <vector>

#include "storage/records/catalog.h"

namespace volchain::storage {

/// Busy, with the way out, where the VM shows a preview: most operations would not know which of the two states
/// they are about. Nil, as of a floating disk: no VM, no preview.
void check_no_preview(const Catalog& catalog, const Uuid& vm);

/// The volume whose content a disk was given by the preview: the first of its chain that belongs to a snapshot;
/// nil for a disk that is not previewed, or whose chain does not lead to one.
[[nodiscard]] Uuid shown_volume(const Catalog& catalog, const Uuid& disk);

/// The snapshots that the VM's disks show, and PreviewRecord::snapshot; none where there is no preview.
[[nodiscard]] std::set<Uuid> shown_snapshots(const Catalog& catalog, const Uuid& vm);

/// What preview, revert, commit and undo lock: the VM and all of its disks, as all of them have a say in what stays.
[[nodiscard]] std::vector<ObjectId> vm_with_disks(const Catalog& catalog, const Uuid& vm);
/// That, for the member "locked" of the job's plan, and out of it again.
[[nodiscard]] Json plan_of_locks(const std::vector<ObjectId>& locks);
[[nodiscard]] std::vector<ObjectId> locks_of_preview(const JobRecord& job);

}  // namespace volchain::storage
