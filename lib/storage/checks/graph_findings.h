// SPDX-License-Identifier: MIT
//
// What the QEMU of a running VM has of a disk, held against records and headers: another active volume, other layers, jobs
// and nodes that nobody has use for. Values only. The guest goes on with what QEMU has; the headers are what the VM starts
// with the next time.
#pragma once

#include "storage/checks/disk_view.h"
#include "storage/checks/finding.h"

namespace volchain::storage {

void find_in_graph(const Catalog& catalog, const DiskView& view, Findings& findings);

}  // namespace volchain::storage
