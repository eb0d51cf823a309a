// SPDX-License-Identifier: MIT
#include "storage/export_bitmap.h"

#include "base/text.h"

namespace volchain::storage {
namespace {

[[noreturn]] void refuse(const std::string& checkpoint, const qmp::Node& layer, std::string_view why) {
    throw Error(ErrorCode::unsupported,
                "what changed since {} is not known: {} {}; copy all of it, without 'since'",
                quote(checkpoint), quote(layer.filename), why);
}

void check_recording(const std::string& checkpoint, const qmp::Node& layer, const qmp::DirtyBitmap& bitmap,
                     const qmp::Node& first, const qmp::DirtyBitmap& first_bitmap) {
    // What QEMU covers by a snapshot it opens anew as read-only, and stores its bitmaps.
    if (bitmap.inconsistent) refuse(checkpoint, layer, "has a bitmap that was in use when its QEMU crashed");
    if (!bitmap.recording) refuse(checkpoint, layer, "has a bitmap that does not record");
    if (bitmap.granularity != first_bitmap.granularity)
        refuse(checkpoint, layer, "has a bitmap of another granularity");
    if (layer.virtual_size != first.virtual_size)
        refuse(checkpoint, layer, "is of another size: the disk was resized since");
}

/// A name that no bitmap of the node has.
std::string free_bitmap_name(const qmp::Node& node, const std::string& checkpoint) {
    std::string name = "since-" + checkpoint;
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

std::vector<const qmp::Node*> layers_with_recording(const std::vector<const qmp::Node*>& layers,
                                                    const std::string& checkpoint) {
    const qmp::Node& first = *layers.front();
    const qmp::DirtyBitmap* const first_bitmap = first.bitmap(checkpoint);
    if (first_bitmap == nullptr)
        throw Error(ErrorCode::not_found, "option 'since': {} has no checkpoint {}", quote(first.filename),
                    quote(checkpoint));
    std::vector<const qmp::Node*> with;
    for (std::size_t index = 0; index < layers.size(); ++index) {
        const qmp::Node& layer = *layers[index];
        const qmp::DirtyBitmap* const bitmap = layer.bitmap(checkpoint);
        if (bitmap == nullptr) continue;
        if (with.size() < index) refuse(checkpoint, layer, "has a part of it, but a layer above has none");
        check_recording(checkpoint, layer, *bitmap, first, *first_bitmap);
        with.push_back(&layer);
    }
    return with;
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
