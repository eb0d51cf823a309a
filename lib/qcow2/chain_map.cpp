// SPDX-License-Identifier: MIT
#include "qcow2/chain_map.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace volchain::qcow2 {
namespace {

/// So that a caller who has to stop can: with clusters of 512 bytes it takes 16 MiB of tables for each layer.
constexpr std::uint64_t most_at_once = 1U << 30;

LayerExtent extent_of(const NamedLayer& layer, std::uint64_t offset, std::uint64_t end) {
    try {
        return layer.map->at(offset, end);
    } catch (const Error& error) {
        throw error.during("image " + layer.name);
    }
}

}  // namespace

ChainMap::ChainMap(std::vector<NamedLayer> layers) : layers_(std::move(layers)) {}

std::uint64_t ChainMap::virtual_size() const noexcept {
    return layers_.empty() ? 0 : layers_.front().map->virtual_size();
}

ChainExtent ChainMap::at(std::uint64_t offset, std::uint64_t end) {
    end = std::min(end, offset + most_at_once);
    for (const NamedLayer& layer : layers_) {
        const std::uint64_t size = layer.map->virtual_size();
        if (offset >= size) return {offset, end - offset, LayerKind::zero};
        const LayerExtent extent = extent_of(layer, offset, std::min(end, size));
        if (extent.kind != LayerKind::absent) return {offset, extent.length, extent.kind};
        end = offset + extent.length;
    }
    return {offset, end - offset, LayerKind::absent};
}

void append(std::vector<ChainExtent>& extents, const ChainExtent& extent) {
    if (!extents.empty() && extents.back().kind == extent.kind &&
        extents.back().offset + extents.back().length == extent.offset)
        extents.back().length += extent.length;
    else
        extents.push_back(extent);
}

}  // namespace volchain::qcow2
