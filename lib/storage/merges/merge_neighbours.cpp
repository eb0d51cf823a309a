// SPDX-License-Identifier: MIT
#include "storage/merges/merge_neighbours.h"

#include <algorithm>
#include <iterator>

namespace volchain::storage {
namespace {

const qmp::Node* open_layer(const qmp::BlockGraph& graph, const Catalog& catalog, const Uuid& volume) {
    return graph.layer_of_file(catalog.path(catalog.volume(volume)));
}

}  // namespace

std::vector<Uuid> volumes_above(const Catalog& catalog, const Uuid& volume) {
    std::vector<Uuid> above;
    std::vector<Uuid> next{volume};
    std::set<Uuid> seen{volume};
    while (!next.empty()) {
        const Uuid lower = next.back();
        next.pop_back();
        for (const Uuid& child : catalog.children(lower)) {
            if (!seen.insert(child).second) continue;
            above.push_back(child);
            next.push_back(child);
        }
    }
    return above;
}

std::vector<Uuid> volumes_not_in(const qmp::BlockGraph& graph, const Catalog& catalog,
                                 const std::vector<Uuid>& volumes) {
    std::vector<Uuid> closed;
    std::copy_if(volumes.begin(), volumes.end(), std::back_inserter(closed),
                 [&](const Uuid& volume) { return open_layer(graph, catalog, volume) == nullptr; });
    return closed;
}

std::set<std::string> bitmap_names(const qmp::BlockGraph& graph, const Catalog& catalog,
                                   const std::vector<Uuid>& volumes) {
    std::set<std::string> names;
    for (const Uuid& volume : volumes) {
        const qmp::Node* const layer = open_layer(graph, catalog, volume);
        if (layer == nullptr)
            for (const qcow2::Bitmap& bitmap : catalog.facts(volume).bitmaps) names.insert(bitmap.name);
        else
            for (const qmp::DirtyBitmap& bitmap : layer->bitmaps)
                if (bitmap.persistent) names.insert(bitmap.name);
    }
    return names;
}

}  // namespace volchain::storage
