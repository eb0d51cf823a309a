// SPDX-License-Identifier: MIT
//
// What becomes of dirty bitmaps when layers are merged. Persistent bitmaps of one name in adjacent layers are one
// recording, which went on from layer to layer; the layer that survives must hold the union, or a backup would miss what
// changed. Where the union cannot be made, because a layer has lost its part, or has none though one below it has, or the disk
// had another size then, the bitmap goes, from the survivor and from the top of the chain: then a backup is full, and says why.
// Layers above that have it would now look like its beginning, on this branch or, when a snapshot is previewed, on another: they
// find one below that does not record, which says that the recording is not whole.
//
// Values only; Merge (merge.h) carries the actions out at the moment when the survivor can be written to, everything was
// copied and the others are still there. What is written from then on, the survivor's bitmaps record themselves.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "qmp/block_graph.h"

namespace volchain::storage {

struct MergedLayers {
    std::vector<const qmp::Node*>
        layers;                           ///< all that are merged, the topmost first, the survivor among them
    const qmp::Node* survivor = nullptr;  ///< the first (stream) or the last (commit)
    const qmp::Node* above =
        nullptr;  ///< the layer that stands on the topmost; null: it is the top of the chain
    const qmp::Node* top = nullptr;     ///< the top of the chain, open for writing
    bool covered = false;               ///< something will stand on the survivor, on whatever branch
    std::set<std::string> names_above;  ///< of persistent bitmaps of what stands on it, on whatever branch
    std::set<std::string> names_below;  ///< and of what the lowest that is merged stands on
};

/// Arguments of a transaction; none where nothing has to be done. Commit needs the survivor's bitmaps to have recorded
/// what was written down into it, which they do; what was copied up into one is no change.
[[nodiscard]] std::optional<Json> bitmap_transaction(const MergedLayers& merged);

}  // namespace volchain::storage
