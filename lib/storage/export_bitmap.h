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

/// The layers that have the checkpoint's recording, of those given, topmost first. It is whole where it goes from the topmost
/// down without a gap; anything else is an error that says which layer is to blame, and what helps: NotFound for a
/// checkpoint that the topmost does not know, Unsupported for a recording that is not whole.
[[nodiscard]] std::vector<const qmp::Node*> layers_with_recording(const std::vector<const qmp::Node*>& layers,
                                                                  const std::string& checkpoint);

/// Adds the merged bitmap to the node `shown`; its name, by which clients know it. `top`: the node of the volume.
async::Task<std::string> add_merged_bitmap(std::shared_ptr<qmp::Session> session, std::string shown,
                                           std::string top, std::string checkpoint, async::Deadline deadline);

}  // namespace volchain::storage
