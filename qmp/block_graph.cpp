// SPDX-License-Identifier: MIT
#include "qmp/block_graph.h"

#include <algorithm>
#include <array>

#include "base/log.h"
#include "base/text.h"
#include "qmp/schema.h"
#include "qmp/session.h"

namespace volchain::qmp {
namespace {

/// Drivers with `is_filter` in QEMU 7.2 to 10.2, except the two that do not show just one other node.
constexpr std::array<std::string_view, 11> filters{
    "backup-top",        "blkdebug",     "blklogwrites", "blkreplay",   "commit_top", "compress",
    "copy-before-write", "copy-on-read", "mirror_top",   "preallocate", "throttle"};

/// What a filter shows: commit_top and mirror_top have it as their backing file, blkdebug as its image.
constexpr std::array<std::string_view, 3> filtered_roles{"file", "backing", "image"};

constexpr int attempts = 5;

}  // namespace

// --- Node --------------------------------------------------------------------------------------------------

bool Node::filter() const noexcept {
    return std::find(filters.begin(), filters.end(), driver) != filters.end();
}

std::string_view Node::child(std::string_view role) const noexcept {
    const auto found =
        std::find_if(children.begin(), children.end(), [role](const Child& c) { return c.role == role; });
    return found == children.end() ? std::string_view() : std::string_view(found->node);
}

const DirtyBitmap* Node::bitmap(std::string_view bitmap_name) const noexcept {
    const auto found = std::find_if(bitmaps.begin(), bitmaps.end(),
                                    [bitmap_name](const DirtyBitmap& b) { return b.name == bitmap_name; });
    return found == bitmaps.end() ? nullptr : &*found;
}

// --- BlockGraph --------------------------------------------------------------------------------------------

// QEMU keeps the graph free of cycles; the walks below end all the same, as no path is longer than there are
// nodes.

const Node* BlockGraph::find(std::string_view node) const noexcept {
    const auto found = nodes_.find(node);
    return found == nodes_.end() ? nullptr : &found->second;
}

const Device* BlockGraph::find_device(std::string_view what) const noexcept {
    if (what.empty()) return nullptr;
    const auto is_it = [what](const Device& device) {
        return device.id == what || device.backend == what || device.path == what ||
               (what.starts_with('/') && device.path.starts_with(std::string(what) + "/"));
    };
    const auto found = std::find_if(devices_.begin(), devices_.end(), is_it);
    return found == devices_.end() ? nullptr : &*found;
}

std::vector<const Device*> BlockGraph::devices_on(std::string_view wanted) const {
    std::vector<const Device*> found;
    const Node* const target = layer(wanted);
    for (const Device& device : devices_)
        if (target != nullptr && layer(device.root) == target) found.push_back(&device);
    return found;
}

std::vector<const Node*> BlockGraph::parents(std::string_view node) const {
    std::vector<const Node*> found;
    for (const auto& [name, candidate] : nodes_)
        if (std::any_of(candidate.children.begin(), candidate.children.end(),
                        [node](const Node::Child& child) { return child.node == node; }))
            found.push_back(&candidate);
    return found;
}

const Node* BlockGraph::layer(std::string_view node) const {
    const Node* current = find(node);
    for (std::size_t steps = 0; current != nullptr && current->filter() && steps < nodes_.size(); ++steps) {
        const Node* shown = nullptr;
        for (const std::string_view role : filtered_roles)
            if (shown == nullptr) shown = find(current->child(role));
        current = shown;
    }
    return current;
}

std::vector<const Node*> BlockGraph::chain(std::string_view node) const {
    std::vector<const Node*> layers;
    const Node* current = layer(node);
    while (current != nullptr && layers.size() < nodes_.size()) {
        layers.push_back(current);
        current = layer(current->child("backing"));
    }
    return layers;
}

const Node* BlockGraph::protocol(std::string_view wanted) const {
    const Node* current = layer(wanted);
    for (std::size_t steps = 0; current != nullptr && steps < nodes_.size(); ++steps) {
        const Node* const beneath = layer(current->child("file"));
        if (beneath == nullptr) return current;
        current = beneath;
    }
    return nullptr;
}

std::optional<std::string> BlockGraph::file(std::string_view wanted) const {
    const Node* const node = protocol(wanted);
    if (node == nullptr || (node->driver != "file" && node->driver != "host_device")) return std::nullopt;
    constexpr std::string_view pseudo = "json:";
    if (!node->filename.starts_with(pseudo)) return node->filename;
    const Json options = parse_json(std::string_view(node->filename).substr(pseudo.size()),
                                    "file name of a node", ErrorCode::qemu_failed);
    return JsonReader(options, "file name of node " + quote(node->name), ErrorCode::qemu_failed)
        .at("filename")
        .string();
}

const Node* BlockGraph::layer_of_file(std::string_view path) const {
    const auto is_layer = [this](const Node& node) {
        // Not the protocol node beneath a format node, which has the same file.
        if (node.filter()) return false;
        const auto above = parents(node.name);
        return std::none_of(above.begin(), above.end(), [&node](const Node* parent) {
            return !parent->filter() && parent->child("file") == node.name;
        });
    };
    for (const auto& [name, node] : nodes_)
        if (is_layer(node) && file(name) == path) return &node;
    return nullptr;
}

// --- asking ------------------------------------------------------------------------------------------------

namespace {

/// Whether nodes are told with their children. The answer itself shows it: telling its schema takes a QEMU up to 60 ms, in
/// which its guest waits.
bool tell_children(const Json& nodes) {
    return std::any_of(nodes.begin(), nodes.end(),
                       [](const Json& node) { return node.contains("children"); });
}

async::Task<Json> read_edges(std::shared_ptr<Session> session, async::Deadline deadline) {
    try {
        co_return co_await session->execute("x-debug-query-block-graph", Json::object(), deadline);
    } catch (const Error& error) {
        if (error.code() != ErrorCode::unsupported) throw;
    }
    throw Error(ErrorCode::unsupported, "the QEMU at {} does not tell how its block nodes hang together",
                quote(session->name()));
}

async::Task<BlockGraph> read_once(std::shared_ptr<Session> session, async::Deadline deadline) {
    Json flat;
    flat["flat"] = true;  // without it, the answer grows with the square of the chain's length
    const Json nodes = co_await session->execute("query-named-block-nodes", std::move(flat), deadline);
    const bool has_children = tell_children(nodes);
    Json edges;
    if (!has_children) edges = co_await read_edges(session, deadline);
    const Json devices = co_await session->execute("query-block", Json::object(), deadline);
    const Json* const separate_edges = has_children ? nullptr : &edges;
    co_return BlockGraph::parse(nodes, separate_edges, &devices);
}

}  // namespace

async::Task<BlockGraph> read_block_graph(std::shared_ptr<Session> session, async::Deadline deadline) {
    for (int attempt = 1;; ++attempt) {
        try {
            co_return co_await read_once(session, deadline);
        } catch (const Error& error) {
            if (error.code() != ErrorCode::busy || attempt == attempts) throw;
            log().debug("{}: {}", quote(session->name()), error.what());
        }
    }
}

}  // namespace volchain::qmp
