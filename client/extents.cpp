// SPDX-License-Identifier: MIT
#include "client/extents.h"

namespace volchain::client {

void ExtentList::add(const Extents& page) {
    for (const auto& extent : page) {
        const auto& [start, length, kind] = extent;
        if (!all_.empty() && start == end() && kind == std::get<2>(all_.back()))
            std::get<1>(all_.back()) += length;
        else
            all_.push_back(extent);
    }
}

std::uint64_t ExtentList::end() const {
    return all_.empty() ? 0 : std::get<0>(all_.back()) + std::get<1>(all_.back());
}

Table ExtentList::table() const {
    Table table("extent", {{"Start"}, {"Length"}, {"Kind"}});
    for (const auto& [start, length, kind] : all_)
        table.add({Cell::number(start), Cell::number(length), Cell::text(kind)});
    return table;
}

}  // namespace volchain::client
