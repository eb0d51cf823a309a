// SPDX-License-Identifier: MIT
//
// The volumes above and below those that are merged, and the names of their bitmaps: whether a recording goes on there, which
// decides what may become of its part in between (merge_bitmaps.h). What a QEMU has open, it is asked for; of the others, on
// other branches, the images say it.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "qmp/block_graph.h"
#include "storage/records/catalog.h"

namespace volchain::storage {

/// All that stand on a volume, on whatever branch.
[[nodiscard]] std::vector<Uuid> volumes_above(const Catalog& catalog, const Uuid& volume);

/// Those that the graph does not have: for a look at their images.
[[nodiscard]] std::vector<Uuid> volumes_not_in(const qmp::BlockGraph& graph, const Catalog& catalog,
                                               const std::vector<Uuid>& volumes);

/// The names of all persistent bitmaps of volumes.
[[nodiscard]] std::set<std::string> bitmap_names(const qmp::BlockGraph& graph, const Catalog& catalog,
                                                 const std::vector<Uuid>& volumes);

}  // namespace volchain::storage
