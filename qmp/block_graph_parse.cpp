// SPDX-License-Identifier: MIT
//
// Reading QEMU's answers into a BlockGraph.
#include <set>
#include <unordered_map>

#include "base/text.h"
#include "qmp/block_graph.h"

namespace volchain::qmp {
namespace {

using Nodes = std::map<std::string, Node, std::less<>>;

Node parse_node(const JsonReader& info) {
    Node node;
    node.name = info.at("node-name").string();
    node.driver = info.at("drv").string();
    node.read_only = info.boolean_or("ro", false);
    node.detect_zeroes = info.string_or("detect_zeroes", "off");
    if (const auto cache = info.find("cache")) {
        node.cache_writeback = cache->boolean_or("writeback", true);
        node.cache_direct = cache->boolean_or("direct", false);
        node.cache_no_flush = cache->boolean_or("no-flush", false);
    }
    if (const auto image = info.find("image")) {
        node.filename = image->string_or("filename", "");
        node.virtual_size = image->u64_or("virtual-size", 0);
        node.backing_filename = image->string_or("backing-filename", "");
        node.backing_format = image->string_or("backing-filename-format", "");
        node.full_backing_filename = image->string_or("full-backing-filename", "");
    }
    if (const auto bitmaps = info.find("dirty-bitmaps"))
        for (const JsonReader& bitmap : bitmaps->elements())
            node.bitmaps.push_back(DirtyBitmap::parse(bitmap));
    if (const auto children = info.find("children"))  // since QEMU 10.1
        for (const JsonReader& child : children->elements())
            node.children.push_back({child.at("child").string(), child.at("node-name").string()});
    return node;
}

[[noreturn]] void changed(std::string_view what) {
    throw Error(ErrorCode::busy, "the block graph changed while it was read: {}", what);
}

/// XDbgBlockGraph: nodes with numbers, which also stand for users of nodes (devices, jobs), and edges between
/// those.
void add_edges(Nodes& nodes, const Json& answer) {
    const JsonReader graph(answer, "answer of x-debug-query-block-graph", ErrorCode::qemu_failed);
    std::unordered_map<std::uint64_t, std::string> names;
    for (const JsonReader& entry : graph.at("nodes").elements()) {
        if (entry.at("type").string() != "block-driver") continue;
        const std::string& name = entry.at("name").string();
        if (!nodes.contains(name)) changed(fmt::format("node {} came", quote(name)));
        names.emplace(entry.at("id").u64(), name);
    }
    if (names.size() != nodes.size()) changed("a node went");
    for (auto& [name, node] : nodes) node.children.clear();
    for (const JsonReader& edge : graph.at("edges").elements()) {
        const auto parent = names.find(edge.at("parent").u64());
        const auto child = names.find(edge.at("child").u64());
        if (parent == names.end() || child == names.end())
            continue;  // the parent is a device, a job or an export
        nodes.find(parent->second)->second.children.push_back({edge.at("name").string(), child->second});
    }
}

/// "d0" for "/machine/peripheral/d0/virtio-backend" and for "d0", nothing for a device without an id.
std::string id_in(const std::string& qdev) {
    constexpr std::string_view with_id = "/machine/peripheral/";
    if (qdev.starts_with(with_id))
        return qdev.substr(with_id.size(), qdev.find('/', with_id.size()) - with_id.size());
    return qdev.starts_with('/') ? "" : qdev;
}

std::vector<Device> parse_devices(const Nodes& nodes, const Json& answer) {
    std::vector<Device> devices;
    const JsonReader list(answer, "answer of query-block", ErrorCode::qemu_failed);
    for (const JsonReader& info : list.elements()) {
        const auto inserted = info.find("inserted");
        if (!inserted) continue;  // an empty drive
        Device device;
        device.path = info.string_or("qdev", "");
        device.id = id_in(device.path);
        device.backend = info.string_or("device", "");
        device.removable = info.boolean_or("removable", false);
        device.root = inserted->at("node-name").string();
        if (!nodes.contains(device.root)) changed(fmt::format("node {} came", quote(device.root)));
        devices.push_back(std::move(device));
    }
    return devices;
}

}  // namespace

DirtyBitmap DirtyBitmap::parse(const JsonReader& info) {
    DirtyBitmap bitmap;
    bitmap.name = info.string_or("name", "");
    bitmap.granularity = info.u64_or("granularity", 0);
    bitmap.count = info.u64_or("count", 0);
    bitmap.recording = info.boolean_or("recording", false);
    bitmap.busy = info.boolean_or("busy", false);
    bitmap.persistent = info.boolean_or("persistent", false);
    bitmap.inconsistent = info.boolean_or("inconsistent", false);
    return bitmap;
}

BlockGraph BlockGraph::parse(const Json& nodes, const Json* edges, const Json* devices) {
    BlockGraph graph;
    const JsonReader list(nodes, "answer of query-named-block-nodes", ErrorCode::qemu_failed);
    for (const JsonReader& info : list.elements()) {
        Node node = parse_node(info);
        std::string name = node.name;
        graph.nodes_.insert_or_assign(std::move(name), std::move(node));
    }
    if (edges != nullptr) add_edges(graph.nodes_, *edges);
    for (const auto& [name, node] : graph.nodes_)
        for (const auto& [role, child] : node.children)
            if (!graph.nodes_.contains(child)) changed(fmt::format("node {} went", quote(child)));
    if (devices != nullptr) graph.devices_ = parse_devices(graph.nodes_, *devices);
    return graph;
}

}  // namespace volchain::qmp
