// SPDX-License-Identifier: MIT
#include "client/block_runs.h"

#include <algorithm>

namespace volchain::client {

void BlockSet::add(std::uint64_t first, std::uint64_t end) {
    if (first >= end) return;
    if (!ranges_.empty() && first <= ranges_.back().end)
        ranges_.back().end = std::max(ranges_.back().end, end);
    else
        ranges_.push_back({first, end});
}

void BlockSet::add_bytes(std::uint64_t offset, std::uint64_t length) {
    if (length > 0) add(offset / block_bytes, blocks_of(offset + length));
}

std::uint64_t BlockSet::count() const {
    std::uint64_t sum = 0;
    for (const Range& range : ranges_) sum += range.end - range.first;
    return sum;
}

BlockSet BlockSet::both(const BlockSet& other) const {
    BlockSet common;
    auto mine = ranges_.begin();
    auto theirs = other.ranges_.begin();
    while (mine != ranges_.end() && theirs != other.ranges_.end()) {
        common.add(std::max(mine->first, theirs->first), std::min(mine->end, theirs->end));
        if (mine->end < theirs->end)
            ++mine;
        else
            ++theirs;
    }
    return common;
}

BlockSet BlockSet::without(const BlockSet& other) const {
    BlockSet rest;
    auto theirs = other.ranges_.begin();
    for (const Range& range : ranges_) {
        std::uint64_t at = range.first;
        while (theirs != other.ranges_.end() && theirs->end <= at) ++theirs;
        for (auto hole = theirs; hole != other.ranges_.end() && hole->first < range.end; ++hole) {
            rest.add(at, hole->first);
            at = std::max(at, hole->end);
        }
        rest.add(at, range.end);
    }
    return rest;
}

BlockRuns plan_runs(const BlockSet& blocks, const BlockSet& data) {
    BlockRuns runs;
    const BlockSet some = blocks.both(data);
    const BlockSet none = blocks.without(data);
    for (const BlockSet::Range& range : some.ranges())
        runs.push_back({range.first, range.end - range.first, BlockKind::data});
    for (const BlockSet::Range& range : none.ranges())
        runs.push_back({range.first, range.end - range.first, BlockKind::zero});
    std::sort(runs.begin(), runs.end(),
              [](const BlockRun& a, const BlockRun& b) { return a.first < b.first; });
    std::uint64_t slot = 0;
    for (BlockRun& run : runs) {
        if (run.kind != BlockKind::data) continue;
        run.slot = slot;
        slot += run.count;
    }
    return runs;
}

BlockSet blocks_in(const BlockRuns& runs) {
    BlockSet all;
    for (const BlockRun& run : runs) all.add(run.first, run.first + run.count);
    return all;
}

BlockSet blocks_in(const BlockRuns& runs, BlockKind kind) {
    BlockSet some;
    for (const BlockRun& run : runs)
        if (run.kind == kind) some.add(run.first, run.first + run.count);
    return some;
}

std::uint64_t count_blocks(const BlockRuns& runs, BlockKind kind) {
    std::uint64_t sum = 0;
    for (const BlockRun& run : runs)
        if (run.kind == kind) sum += run.count;
    return sum;
}

}  // namespace volchain::client
