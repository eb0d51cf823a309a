// SPDX-License-Identifier: MIT
//
// What has changed since a checkpoint, as an export tells it: the checkpoint's bitmaps of all layers in one, which records
// nothing any more and goes with the process that has it. The bitmaps in the images stay as they are.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "qmp/block_graph.h"
#include "qmp/session.h"

namespace volchain::storage {

/// What layers have recorded under a bitmap's name. A recording is whole where it goes from the topmost layer down without a
/// gap.
struct Recording {
    std::vector<const qmp::Node*> layers;  ///< that have it, topmost first
    bool known = false;                    ///< the topmost has it
    std::string flaw;  ///< why it is not whole, and which layer is to blame; empty where it is
};
[[nodiscard]] Recording recording_in(const std::vector<const qmp::Node*>& layers, const std::string& bitmap);

/// The layers of a whole recording; anything else is an error that says what helps: NotFound for a checkpoint that the topmost
/// does not know, Unsupported for a recording that is not whole.
[[nodiscard]] std::vector<const qmp::Node*> layers_with_recording(const std::vector<const qmp::Node*>& layers,
                                                                  const std::string& checkpoint);

/// The name by which clients know what changed since a checkpoint: "since-" and what people call it.
[[nodiscard]] std::string shown_bitmap_name(const std::string& bitmap);

/// Adds the merged bitmap to the node `shown`; its name, by which clients know it. `top`: the node of the volume.
async::Task<std::string> add_merged_bitmap(std::shared_ptr<qmp::Session> session, std::string shown,
                                           std::string top, std::string checkpoint, async::Deadline deadline);

}  // namespace volchain::storage
