// SPDX-License-Identifier: MIT
#include "storage/checkpoints/export_bitmap.h"

#include "base/text.h"
#include "storage/checkpoints/checkpoints.h"

namespace volchain::storage {
namespace {

/// What is wrong with one layer's part; empty where nothing is.
std::string flaw_of(const qmp::Node& layer, const qmp::DirtyBitmap& bitmap, const qmp::Node& first,
                    const qmp::DirtyBitmap& first_bitmap) {
    // What QEMU covers by a snapshot it opens anew as read-only, and stores its bitmaps.
    if (bitmap.inconsistent) return "has a bitmap that was in use when its QEMU crashed";
    if (!bitmap.recording) return "has a bitmap that does not record";
    if (bitmap.granularity != first_bitmap.granularity) return "has a bitmap of another granularity";
    if (layer.virtual_size != first.virtual_size) return "is of another size: the disk was resized since";
    return {};
}

/// A name that no bitmap of the node has.
std::string free_bitmap_name(const qmp::Node& node, const std::string& checkpoint) {
    std::string name = shown_bitmap_name(checkpoint);
    while (node.bitmap(name) != nullptr) name += "-";
    return name;
}

Json merge_arguments(const std::string& shown, const std::string& name,
                     const std::vector<const qmp::Node*>& layers, const std::string& checkpoint) {
    Json arguments;
    arguments["node"] = shown;
    arguments["target"] = name;
    arguments["bitmaps"] = Json::array();
    for (const qmp::Node* layer : layers)
        arguments["bitmaps"].push_back({{"node", layer->name}, {"name", checkpoint}});
    return arguments;
}

}  // namespace

std::string shown_bitmap_name(const std::string& bitmap) {
    const auto checkpoint = CheckpointName::of_bitmap(bitmap);
    return "since-" + (checkpoint ? checkpoint->name : bitmap);
}

Recording recording_in(const std::vector<const qmp::Node*>& layers, const std::string& bitmap) {
    Recording recording;
    const qmp::Node& first = *layers.front();
    const qmp::DirtyBitmap* const first_bitmap = first.bitmap(bitmap);
    recording.known = first_bitmap != nullptr;
    if (!recording.known) {
        recording.flaw = fmt::format("{} has no such bitmap", quote(first.filename));
        return recording;
    }
    for (std::size_t index = 0; index < layers.size() && recording.flaw.empty(); ++index) {
        const qmp::Node& layer = *layers[index];
        const qmp::DirtyBitmap* const part = layer.bitmap(bitmap);
        if (part == nullptr) continue;
        std::string flaw = recording.layers.size() < index ? "has a part of it, but a layer above has none"
                                                           : flaw_of(layer, *part, first, *first_bitmap);
        if (!flaw.empty()) recording.flaw = fmt::format("{} {}", quote(layer.filename), flaw);
        recording.layers.push_back(&layer);
    }
    return recording;
}

std::vector<const qmp::Node*> layers_with_recording(const std::vector<const qmp::Node*>& layers,
                                                    const std::string& checkpoint) {
    Recording recording = recording_in(layers, checkpoint);
    if (!recording.known)
        throw Error(ErrorCode::not_found, "option 'since': {} has no checkpoint {}",
                    quote(layers.front()->filename), quote(checkpoint));
    if (!recording.flaw.empty())
        throw Error(ErrorCode::unsupported,
                    "what changed since {} is not known: {}; copy all of it, without 'since'",
                    quote(checkpoint), recording.flaw);
    return std::move(recording.layers);
}

async::Task<std::string> add_merged_bitmap(std::shared_ptr<qmp::Session> session, std::string shown,
                                           std::string top, std::string checkpoint,
                                           async::Deadline deadline) {
    const qmp::BlockGraph graph = co_await qmp::read_block_graph(session, deadline);
    const std::vector<const qmp::Node*> layers = layers_with_recording(graph.chain(top), checkpoint);
    const qmp::Node* const node = graph.find(shown);
    const std::string name = free_bitmap_name(node == nullptr ? *layers.front() : *node, checkpoint);
    Json bitmap;
    bitmap["node"] = shown;
    bitmap["name"] = name;
    bitmap["granularity"] = layers.front()->bitmap(checkpoint)->granularity;
    bitmap["disabled"] = true;
    (void)co_await session->execute("block-dirty-bitmap-add", std::move(bitmap), deadline);
    Json merge = merge_arguments(shown, name, layers, checkpoint);
    (void)co_await session->execute("block-dirty-bitmap-merge", std::move(merge), deadline);
    co_return name;
}

}  // namespace volchain::storage
