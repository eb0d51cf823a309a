// SPDX-License-Identifier: MIT
//
// BlockGraph: the block nodes of a QEMU or a storage daemon at one moment, how they hang together, and which
// guest devices stand on top. A value: read whole at connecting and after surprises (read_block_graph()),
// since asking is slow on deep chains, and good until the graph changes. What it is for is to find the layers
// of a disk, whatever way the guest was started: -blockdev or -drive, with names or generated ones
// ("#block123"), filters in between or not.
//
// Layer: a node that holds data of its own, which is a format node (qcow2, raw over a file), or a protocol
// node where it is attached without a format. Filter: a node that shows the data of another (throttle,
// copy-before-write, ...).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "async/task.h"
#include "base/json.h"

namespace volchain::qmp {

class Session;

/// BlockDirtyInfo.
struct DirtyBitmap {
    std::string name;  ///< empty for those that a job uses
    std::uint64_t granularity = 0;
    std::uint64_t count = 0;  ///< dirty bytes
    bool recording = false;
    bool busy = false;
    bool persistent = false;
    bool inconsistent = false;

    [[nodiscard]] static DirtyBitmap parse(const JsonReader& info);
};

/// BlockDeviceInfo and ImageInfo of one node.
struct Node {
    struct Child {
        std::string role;  ///< "file", "backing", or what else the driver calls it
        std::string node;
    };

    std::string name;
    std::string driver;
    std::string filename;  ///< as QEMU gives it: a path, a URL or a "json:" text
    bool read_only = false;
    bool cache_writeback = true;
    bool cache_direct = false;
    bool cache_no_flush = false;
    std::string detect_zeroes;  ///< "off", "on" or "unmap"
    std::uint64_t virtual_size = 0;
    /// What the image's header says of its backing file; empty where it names none.
    std::string backing_filename;
    std::string backing_format;
    std::string full_backing_filename;
    std::vector<DirtyBitmap> bitmaps;
    std::vector<Child> children;

    [[nodiscard]] bool filter() const noexcept;
    /// The node under that role, empty where there is none.
    [[nodiscard]] std::string_view child(std::string_view role) const noexcept;
    [[nodiscard]] const DirtyBitmap* bitmap(std::string_view bitmap_name) const noexcept;
};

/// A guest's device that has a medium.
struct Device {
    std::string id;       ///< qdev id, empty where the device was given none
    std::string path;     ///< QOM path where QEMU tells one, else the id
    std::string backend;  ///< the id of a -drive, empty with -blockdev
    std::string root;     ///< the node that the device uses
    bool removable = false;
};

class BlockGraph {
  public:
    BlockGraph() = default;

    /// From the answers of query-named-block-nodes, x-debug-query-block-graph (null: the nodes have
    /// `children`) and query-block (null: not a guest). Throws QemuFailed where they cannot be read, Busy
    /// where the graph changed between them.
    [[nodiscard]] static BlockGraph parse(const Json& nodes, const Json* edges, const Json* devices);

    [[nodiscard]] const std::map<std::string, Node, std::less<>>& nodes() const noexcept { return nodes_; }
    [[nodiscard]] const std::vector<Device>& devices() const noexcept { return devices_; }
    [[nodiscard]] const Node* find(std::string_view node) const noexcept;
    /// By qdev id, QOM path (also that of the device above the one QEMU names) or backend id.
    [[nodiscard]] const Device* find_device(std::string_view what) const noexcept;
    /// The devices that stand on the node, with filters in between or not.
    [[nodiscard]] std::vector<const Device*> devices_on(std::string_view layer) const;
    [[nodiscard]] std::vector<const Node*> parents(std::string_view node) const;

    /// The layer at or beneath the node: itself, or what the filters above it show.
    [[nodiscard]] const Node* layer(std::string_view node) const;
    /// That layer and those beneath it, along the backing links and through filters, topmost first.
    [[nodiscard]] std::vector<const Node*> chain(std::string_view node) const;
    /// The node at the very bottom of a layer, which has its file open (driver "file").
    [[nodiscard]] const Node* protocol(std::string_view layer) const;
    /// The path of the layer's file; none where it is not a file of this host.
    [[nodiscard]] std::optional<std::string> file(std::string_view layer) const;
    /// The layer whose file has that path as its name; the first where there are several.
    [[nodiscard]] const Node* layer_of_file(std::string_view path) const;

  private:
    std::map<std::string, Node, std::less<>> nodes_;
    std::vector<Device> devices_;
};

/// Asks for all of it. Where the graph changes meanwhile, it is asked again a few times; Busy when that does
/// not end.
async::Task<BlockGraph> read_block_graph(std::shared_ptr<Session> session, async::Deadline deadline);

}  // namespace volchain::qmp
