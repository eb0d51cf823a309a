// SPDX-License-Identifier: MIT
//
// has_data(): whether a layer holds anything of its own, or is still as it was created.
#pragma once

#include "qcow2/header.h"
#include "qcow2/image_source.h"

namespace volchain::qcow2 {

/// Whether the active state of the image that `header` was read from has an allocated or zeroed cluster,
/// a VM state included: anything but zero in the L1 table, which is a yes also where the L2 tables it
/// points to are empty. So "no" is certain and "yes" is on the safe side. Internal snapshots are not
/// looked at. Reads at most 32 MiB.
[[nodiscard]] bool has_data(const ImageSource& source, const Header& header);

}  // namespace volchain::qcow2
