// SPDX-License-Identifier: MIT
//
// LiveDisk: a guest's disk as its QEMU has it: the device, the layers from the active one down, their files,
// and what an overlay must take over. Found in QEMU's block graph at connecting and on surprise; kept true
// afterwards from what we do ourselves, because asking is slow on deep chains.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "qmp/block_graph.h"
#include "qmp/node.h"
#include "qmp/session.h"
#include "storage/settings.h"

namespace volchain::storage {

struct LiveLayer {
    std::string node;
    std::string driver;    ///< "qcow2", "raw", "file" for a bare protocol node, or what we cannot work with
    std::string path;      ///< absolute, links resolved; empty where the layer is no file of this host
    std::string oddity{};  ///< why the file by itself is not what the layer shows; empty where it is
    std::string file_node{};  ///< beneath it; empty where it has none
    std::vector<qmp::DirtyBitmap> bitmaps{};
};

struct LiveDisk {
    std::string device;  ///< qdev id or QOM path, for device commands and messages
    std::string target;  ///< the device's serial, else its id
    bool shareable = false;
    std::vector<LiveLayer> layers;  ///< active layer first; never empty
    qmp::NodeOptions options;       ///< of the active layer
    bool options_known = false;     ///< false: aio and discard are a guess

    [[nodiscard]] const LiveLayer& active() const { return layers.front(); }
    [[nodiscard]] LiveLayer& active() { return layers.front(); }
    /// The one with this file, null where there is none.
    [[nodiscard]] const LiveLayer* layer(const std::string& path) const;
};

/// All writable disks of the guest behind `session`; drives for media and read-only disks are left out.
[[nodiscard]] async::Task<std::vector<LiveDisk>> read_live_disks(std::shared_ptr<qmp::Session> session,
                                                                 Settings settings);

}  // namespace volchain::storage
