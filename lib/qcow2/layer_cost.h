// SPDX-License-Identifier: MIT
//
// What it costs to write what one layer holds into the one below it, from the maps of both (layer_map.h): how
// much there is to copy, and how much more space the lower one needs for it. Maps are read from where they
// stand, the upper one to its end.
#pragma once

#include <cstdint>

#include "qcow2/layer_map.h"

namespace volchain::qcow2 {

/// How many bytes of the disk are of each kind.
struct LayerBytes {
    std::uint64_t data = 0;
    std::uint64_t zero = 0;
    std::uint64_t absent = 0;
};
[[nodiscard]] LayerBytes bytes_of(LayerMap& map);
[[nodiscard]] std::uint64_t bytes_of_data(LayerMap& map);

/// Clusters that a lower layer has no place for yet, in bytes.
struct MissingBytes {
    /// The upper layer has data there.
    std::uint64_t data = 0;
    /// The upper layer has zeroes there and no data. They take this space only when they are written as
    /// data: in QEMU 7.2, a commit of what is below the active layer does that always, an active commit
    /// only where they do not fill the cluster.
    std::uint64_t zero = 0;
};

/// What `lower` needs at most, in whole clusters of its own, for what `upper` holds: a cluster counts
/// unless all of it is in place (LayerExtent). What `upper` has behind the end of `lower` counts. Not
/// counted: the L2 tables and refcount blocks that become necessary, and that an active commit into
/// clusters of less than 4 KiB copies 4 KiB at a time.
[[nodiscard]] MissingBytes bytes_missing(LayerMap& upper, LayerMap& lower);

}  // namespace volchain::qcow2
