// SPDX-License-Identifier: MIT
//
// Which of a disk's dirty bitmaps are worth nothing: those that were not saved when their image was last open, and
// recordings with a hole between two layers. Values only.
//
// A bitmap that was not saved can do nothing but go, and stands in the way of others (of a resize, of one of the same
// name). It is removed only where no layer above has one of its name: without it, what is above would look like a whole
// recording, and a backup would miss what changed before it.
#pragma once

#include "storage/checks/disk_view.h"
#include "storage/checks/finding.h"

namespace volchain::storage {

void find_bitmaps(const Catalog& catalog, const DiskView& view, Findings& findings);

}  // namespace volchain::storage
