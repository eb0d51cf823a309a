// SPDX-License-Identifier: MIT
//
// LiveChain: the block nodes of a disk that is plugged into a running QEMU, or was: added layer by layer before there is
// a device, taken away when there is none any more. It knows nothing of devices and of records.
#pragma once

#include <string>
#include <vector>

#include "qmp/node.h"
#include "storage/engine.h"

namespace volchain::storage {

/// A layer that is to be a node. The names are those of disk and volume: a base that several disks stand on is a node of
/// its own for each of them.
struct PlannedLayer {
    Uuid volume;
    std::string node;
    std::string file_node;
    std::string path;
    VolumeFormat format{};
};

/// The layers of the disk's active chain as its headers were last read, active one first.
[[nodiscard]] std::vector<PlannedLayer> plan_layers(const Catalog& catalog, const Uuid& disk);
/// The same for a volume and what it stands on; the names are those of `owner`, an object, and the volumes.
[[nodiscard]] std::vector<PlannedLayer> plan_layers(const Catalog& catalog, const Uuid& owner,
                                                    const Uuid& top);
/// A node name of an object, for one node that is no volume.
[[nodiscard]] std::string node_name_of(const Uuid& owner);

/// Reads the headers of the chain again, as strictly as at an import: QEMU is to open what they say. Throws what stands
/// against that.
async::Task<> inspect_chain(Engine& engine, Uuid disk);

/// The same for any volume and what it stands on.
async::Task<> inspect_layers(Engine& engine, Uuid top);

/// Adds the layers, bottom first: the topmost as `top` says, the others so that they are left alone and a commit can go into
/// them all the same. What was added before an error stays: remove_nodes().
async::Task<> add_layers(Engine& engine, std::shared_ptr<qmp::Session> session,
                         std::vector<PlannedLayer> layers, qmp::NodeOptions options, qmp::Access top);

/// The node and all that it stands on, each one before those beneath it.
[[nodiscard]] std::vector<std::string> nodes_below(const qmp::BlockGraph& graph, const std::string& root);

/// Takes nodes away, in the order in which they are given. Passed over is what is not there, what belongs to another
/// node, and, but for the first, what another one needs. The first may be in use for a moment yet by a device that has just
/// gone; the error where it stays so is InUse.
async::Task<> remove_nodes(std::shared_ptr<qmp::Session> session, std::vector<std::string> nodes,
                           async::Deadline deadline);

}  // namespace volchain::storage
