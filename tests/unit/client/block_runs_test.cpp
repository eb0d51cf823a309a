// SPDX-License-Identifier: MIT
#include "client/block_runs.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace volchain::client::block_runs_test {
namespace {

using Ranges = std::vector<BlockSet::Range>;

BlockSet set_of(const Ranges& ranges) {
    BlockSet set;
    for (const auto& range : ranges) set.add(range.first, range.end);
    return set;
}

Ranges ranges_of(const BlockSet& set) {
    return set.ranges();
}

TEST(BlockSet, JoinsWhatTouches) {
    EXPECT_EQ(ranges_of(set_of({{1, 3}, {3, 5}, {4, 4}, {7, 8}})), (Ranges{{1, 5}, {7, 8}}));
    EXPECT_EQ(ranges_of(set_of({{1, 9}, {3, 5}})), (Ranges{{1, 9}}));
    EXPECT_EQ(ranges_of(BlockSet(3)), (Ranges{{0, 3}}));
    EXPECT_TRUE(BlockSet(0).empty());
}

TEST(BlockSet, BlocksOfBytes) {
    BlockSet set;
    set.add_bytes(0, 1);
    set.add_bytes(block_bytes * 2 - 1, 2);
    set.add_bytes(block_bytes * 9, 0);
    EXPECT_EQ(set.ranges(), (Ranges{{0, 3}}));
    EXPECT_EQ(blocks_of(0), 0U);
    EXPECT_EQ(blocks_of(block_bytes + 1), 2U);
    EXPECT_EQ(bytes_of(0, 2, block_bytes + 512), block_bytes + 512);
    EXPECT_EQ(bytes_of(1, 1, block_bytes + 512), 512U);
    EXPECT_EQ(bytes_of(0, 1, block_bytes + 512), block_bytes);
}

/// Against sets of single blocks.
TEST(BlockSet, BothAndWithout) {
    std::mt19937 chance(7);
    for (int round = 0; round < 300; ++round) {
        constexpr std::size_t blocks = 40;
        std::vector<bool> a(blocks);
        std::vector<bool> b(blocks);
        BlockSet set_a;
        BlockSet set_b;
        for (std::size_t i = 0; i < blocks; ++i) {
            a[i] = chance() % 3 != 0;
            b[i] = chance() % 2 != 0;
            if (a[i]) set_a.add(i, i + 1);
            if (b[i]) set_b.add(i, i + 1);
        }
        BlockSet both;
        BlockSet without;
        for (std::size_t i = 0; i < blocks; ++i) {
            if (a[i] && b[i]) both.add(i, i + 1);
            if (a[i] && !b[i]) without.add(i, i + 1);
        }
        EXPECT_EQ(set_a.both(set_b), both);
        EXPECT_EQ(set_a.without(set_b), without);
        EXPECT_EQ(both.count() + without.count(), set_a.count());
    }
}

TEST(PlanRuns, DataAndZeroesInOrder) {
    const BlockRuns runs = plan_runs(set_of({{0, 4}, {6, 8}}), set_of({{1, 3}, {7, 20}}));
    const BlockRuns wanted{{0, 1, BlockKind::zero, 0, 0},
                           {1, 2, BlockKind::data, 0, 0},
                           {3, 1, BlockKind::zero, 0, 0},
                           {6, 1, BlockKind::zero, 0, 0},
                           {7, 1, BlockKind::data, 2, 0}};
    EXPECT_EQ(runs, wanted);
    EXPECT_EQ(blocks_in(runs), set_of({{0, 4}, {6, 8}}));
    EXPECT_EQ(blocks_in(runs, BlockKind::zero), set_of({{0, 1}, {3, 4}, {6, 7}}));
    EXPECT_EQ(count_blocks(runs, BlockKind::data), 3U);
}

}  // namespace
}  // namespace volchain::client::block_runs_test
