// SPDX-License-Identifier: MIT
#include "storage/merges/merge_bitmaps.h"

#include <algorithm>
#include <set>

#include "base/log.h"
#include "base/text.h"

namespace volchain::storage {
namespace {

bool tracks(const qmp::DirtyBitmap* bitmap) {
    return bitmap != nullptr && bitmap->persistent && bitmap->recording && !bitmap->inconsistent;
}

/// A name's bitmap in each of the layers, topmost first; null where a layer has none.
using Column = std::vector<const qmp::DirtyBitmap*>;

Column column_of(const std::vector<const qmp::Node*>& layers, const std::string& name) {
    Column column;
    for (const qmp::Node* layer : layers) column.push_back(layer->bitmap(name));
    return column;
}

bool holds_bitmaps(const qmp::Node& layer) {
    return layer.driver == "qcow2";
}

/// Whether the recording is whole, from the top layer down to where it began, and can be united: QEMU merges bitmaps of one
/// size and one granularity.
bool whole(const MergedLayers& merged, const std::string& name, const Column& column) {
    const auto end = std::find_if_not(column.begin(), column.end(), tracks);
    if (end == column.begin()) return false;
    // Where it has a hole, what was written to that layer is in no bitmap.
    const bool nothing_below =
        std::all_of(end, column.end(), [](const auto* bitmap) { return bitmap == nullptr; }) &&
        (end == column.end() || !merged.names_below.contains(name));
    const bool same_granularity = std::all_of(column.begin(), end, [&](const auto* bitmap) {
        return bitmap->granularity == column.front()->granularity;
    });
    bool same_size = true;
    for (std::size_t i = 0; i < column.size(); ++i)
        if (column[i] != nullptr && merged.layers[i]->virtual_size != merged.survivor->virtual_size)
            same_size = false;
    return nothing_below && same_granularity && same_size && holds_bitmaps(*merged.survivor);
}

class Actions {
  public:
    void remove(const qmp::Node& node, const std::string& name) {
        add("block-dirty-bitmap-remove", {{"node", node.name}, {"name", name}});
    }
    void create(const qmp::Node& node, const std::string& name, std::uint64_t granularity) {
        add("block-dirty-bitmap-add",
            {{"node", node.name}, {"name", name}, {"granularity", granularity}, {"persistent", true}});
    }
    void create_ended(const qmp::Node& node, const std::string& name, std::uint64_t granularity) {
        add("block-dirty-bitmap-add", {{"node", node.name},
                                       {"name", name},
                                       {"granularity", granularity},
                                       {"persistent", true},
                                       {"disabled", true}});
    }
    void end(const qmp::Node& node, const std::string& name) {
        add("block-dirty-bitmap-disable", {{"node", node.name}, {"name", name}});
    }
    void merge(const qmp::Node& target, const std::string& name, Json sources) {
        add("block-dirty-bitmap-merge",
            {{"node", target.name}, {"target", name}, {"bitmaps", std::move(sources)}});
    }
    [[nodiscard]] std::optional<Json> transaction() && {
        if (actions_.empty()) return std::nullopt;
        return Json{{"actions", std::move(actions_)}};
    }

  private:
    void add(std::string_view type, Json data) {
        actions_.push_back({{"type", type}, {"data", std::move(data)}});
    }
    Json actions_ = Json::array();
};

void unite(const MergedLayers& merged, const std::string& name, const Column& column, Actions& actions) {
    Json sources = Json::array();
    for (std::size_t i = 0; i < column.size(); ++i)
        if (column[i] != nullptr && merged.layers[i] != merged.survivor)
            sources.push_back({{"node", merged.layers[i]->name}, {"name", name}});
    if (sources.empty()) return;
    if (merged.survivor->bitmap(name) == nullptr)
        actions.create(*merged.survivor, name, column.front()->granularity);
    actions.merge(*merged.survivor, name, std::move(sources));
}

std::uint64_t granularity_of(const Column& column) {
    const auto one =
        std::find_if(column.begin(), column.end(), [](const auto* bitmap) { return bitmap != nullptr; });
    return (*one)->granularity;
}

/// The recording is not whole, or ended before: nothing may be left that looks like one.
void forget(const MergedLayers& merged, const std::string& name, const Column& column, Actions& actions) {
    const qmp::DirtyBitmap* const own = merged.survivor->bitmap(name);
    // One that has none in the topmost layer but goes on above has a hole: it would not be seen any more.
    const bool above = column.front() != nullptr || merged.names_above.contains(name);
    const bool holds = holds_bitmaps(*merged.survivor);
    const bool goes_on = merged.covered && above && holds;
    if (goes_on && own == nullptr)
        actions.create_ended(*merged.survivor, name, granularity_of(column));
    else if (goes_on && tracks(own))
        actions.end(*merged.survivor, name);
    else if (!goes_on && own != nullptr)
        actions.remove(*merged.survivor, name);
    // Beyond a hole it may be one that began anew: as long as something below can say that it is not whole, it stays.
    const bool claimed = merged.covered && above && (column.front() != nullptr ? holds : !holds) &&
                         merged.above != nullptr && merged.above->bitmap(name) != nullptr;
    const bool elsewhere = merged.top != merged.survivor && merged.top != merged.layers.front();
    if (!claimed || !elsewhere || merged.top->bitmap(name) == nullptr) return;
    actions.remove(*merged.top, name);
    log().warning("bitmap {} goes: a layer that was merged has lost its part of it, or had another size",
                  quote(name));
}

}  // namespace

std::optional<Json> bitmap_transaction(const MergedLayers& merged) {
    std::set<std::string> names;
    for (const qmp::Node* layer : merged.layers)
        for (const qmp::DirtyBitmap& bitmap : layer->bitmaps)
            if (bitmap.persistent) names.insert(bitmap.name);
    Actions actions;
    for (const std::string& name : names) {
        const Column column = column_of(merged.layers, name);
        if (whole(merged, name, column))
            unite(merged, name, column, actions);
        else
            forget(merged, name, column, actions);
    }
    return std::move(actions).transaction();
}

}  // namespace volchain::storage
