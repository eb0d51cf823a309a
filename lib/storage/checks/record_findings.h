// SPDX-License-Identifier: MIT
//
// What the records and the headers of a disk's volumes say by themselves, each held against the other: files that are
// missing, backing files that nobody knows, images that say that they are damaged, snapshots that do not have what they
// name. Values only: no file is looked at here.
#pragma once

#include "storage/checks/disk_view.h"
#include "storage/checks/finding.h"

namespace volchain::storage {

void find_in_records(const Catalog& catalog, const DiskView& view, Findings& findings);

}  // namespace volchain::storage
