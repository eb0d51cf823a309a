// SPDX-License-Identifier: MIT
//
// What merges have left of a disk's volumes: those that are marked because a merge did not come to its end, those that
// belonged to a snapshot that is gone, those that nothing leads to; and marks that mean nothing any more. Values only.
#pragma once

#include "storage/checks/disk_view.h"
#include "storage/checks/finding.h"

namespace volchain::storage {

void find_marks(const Catalog& catalog, const DiskView& view, Findings& findings);

}  // namespace volchain::storage
