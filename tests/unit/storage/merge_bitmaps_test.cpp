// SPDX-License-Identifier: MIT
#include "storage/merges/merge_bitmaps.h"

#include <deque>

#include "support.h"

namespace volchain::storage::merge_bitmaps_test {
namespace {

constexpr std::uint64_t small = 64 << 20;
constexpr std::uint64_t large = 96 << 20;

qmp::DirtyBitmap recording(const std::string& name, std::uint64_t granularity = 65536) {
    qmp::DirtyBitmap bitmap;
    bitmap.name = name;
    bitmap.granularity = granularity;
    bitmap.recording = bitmap.persistent = true;
    return bitmap;
}

qmp::DirtyBitmap ended(const std::string& name) {
    qmp::DirtyBitmap bitmap = recording(name);
    bitmap.recording = false;
    return bitmap;
}

qmp::DirtyBitmap inconsistent(const std::string& name) {
    qmp::DirtyBitmap bitmap = ended(name);
    bitmap.inconsistent = true;
    return bitmap;
}

/// Layers that are merged, the topmost first, with at most one bitmap "b" each.
class MergeBitmapsTest : public testing::Test {
  protected:
    void layer(const std::optional<qmp::DirtyBitmap>& bitmap, std::uint64_t size = small) {
        qmp::Node& node = nodes_.emplace_back();
        node.name = fmt::format("n{}", nodes_.size());
        node.driver = "qcow2";
        node.virtual_size = size;
        if (bitmap) node.bitmaps.push_back(*bitmap);
        merged_.layers.push_back(&node);
        merged_.top = merged_.layers.front();
        merged_.survivor = merged_.layers.back();
    }
    void stream() { merged_.survivor = merged_.layers.front(); }

    /// The layer that stands on them, and is the top of the chain.
    void cover(const std::optional<qmp::DirtyBitmap>& bitmap) {
        above_.name = "above";
        above_.virtual_size = small;
        if (bitmap) above_.bitmaps.push_back(*bitmap);
        merged_.above = merged_.top = &above_;
        merged_.covered = true;
    }

    /// "end n2", "add n2, ended", "merge n1 into n2", ...
    [[nodiscard]] std::vector<std::string> actions() const {
        const std::optional<Json> transaction = bitmap_transaction(merged_);
        std::vector<std::string> all;
        if (!transaction) return all;
        for (const Json& action : transaction->at("actions")) all.push_back(text(action));
        return all;
    }

    MergedLayers merged_;
    std::deque<qmp::Node> nodes_;

  private:
    static std::string text(const Json& action) {
        const auto type = action.at("type").get<std::string>();
        const Json& data = action.at("data");
        const auto node = data.at("node").get<std::string>();
        if (type == "block-dirty-bitmap-remove") return "remove " + node;
        if (type == "block-dirty-bitmap-disable") return "end " + node;
        if (type == "block-dirty-bitmap-add")
            return fmt::format("add {}{}", node, data.value("disabled", false) ? ", ended" : "");
        std::string sources;
        for (const Json& source : data.at("bitmaps")) sources += source.at("node").get<std::string>() + " ";
        return fmt::format("merge {}into {}", sources, node);
    }

    qmp::Node above_;
};

TEST_F(MergeBitmapsTest, ARecordingIsUnitedInTheSurvivor) {
    layer(recording("b"));
    layer(recording("b"));
    layer(recording("b"));
    EXPECT_THAT(actions(), ElementsAre("merge n1 n2 into n3"));
    stream();
    EXPECT_THAT(actions(), ElementsAre("merge n2 n3 into n1"));
}

TEST_F(MergeBitmapsTest, OneThatBeganLaterIsMadeInTheLowerLayer) {
    layer(recording("b"));
    layer(std::nullopt);
    EXPECT_THAT(actions(), ElementsAre("add n2", "merge n1 into n2"));
    stream();
    EXPECT_THAT(actions(), IsEmpty());
}

TEST_F(MergeBitmapsTest, WithoutBitmapsThereIsNothingToDo) {
    layer(std::nullopt);
    layer(std::nullopt);
    EXPECT_THAT(actions(), IsEmpty());
}

TEST_F(MergeBitmapsTest, TemporaryOnesAreLeftAlone) {
    qmp::DirtyBitmap temporary = recording("b");
    temporary.persistent = false;
    layer(temporary);
    layer(std::nullopt);
    EXPECT_THAT(actions(), IsEmpty());
}

TEST_F(MergeBitmapsTest, WhatIsNotWholeGoes) {
    layer(recording("b"));
    layer(inconsistent("b"));
    EXPECT_THAT(actions(), ElementsAre("remove n2"));
    stream();
    EXPECT_THAT(actions(), ElementsAre("remove n1"));
}

TEST_F(MergeBitmapsTest, OneThatStoppedRecordingGoes) {
    layer(std::nullopt);
    layer(ended("b"));
    EXPECT_THAT(actions(), ElementsAre("remove n2"));
}

TEST_F(MergeBitmapsTest, DifferentGrainsCannotBeUnited) {
    layer(recording("b", 4096));
    layer(recording("b"));
    EXPECT_THAT(actions(), ElementsAre("remove n2"));
}

TEST_F(MergeBitmapsTest, DifferentSizesCannotBeUnited) {
    layer(recording("b"), large);
    layer(recording("b"), small);
    stream();
    EXPECT_THAT(actions(), ElementsAre("remove n1"));
}

TEST_F(MergeBitmapsTest, ARawLayerHoldsNone) {
    layer(recording("b"));
    layer(std::nullopt);
    nodes_.back().driver = "raw";
    EXPECT_THAT(actions(), IsEmpty());
    stream();
    EXPECT_THAT(actions(), IsEmpty());
}

TEST_F(MergeBitmapsTest, ACommitHasMadeTheLowerLayerGrowBefore) {
    layer(recording("b"), large);
    layer(recording("b"), large);
    EXPECT_THAT(actions(), ElementsAre("merge n1 into n2"));
}

TEST_F(MergeBitmapsTest, WhatGoesOnAboveFindsThatItIsNotWhole) {
    layer(recording("b"));
    layer(inconsistent("b"));
    cover(recording("b"));
    // The inconsistent one says it itself; the active layer's is of no use any more.
    EXPECT_THAT(actions(), ElementsAre("remove above"));
    stream();
    EXPECT_THAT(actions(), ElementsAre("end n1", "remove above"));
}

TEST_F(MergeBitmapsTest, WhatGoesOnOnAnotherBranchFindsItToo) {
    layer(recording("b"), large);
    layer(recording("b"), small);
    layer(recording("b"), large);
    merged_.covered = true;
    EXPECT_THAT(actions(), ElementsAre("end n3"));
}

TEST_F(MergeBitmapsTest, WhereTheLowerLayerHasNoneOneIsMadeThatDoesNotRecord) {
    layer(ended("b"));
    layer(std::nullopt);
    cover(recording("b"));
    EXPECT_THAT(actions(), ElementsAre("add n2, ended", "remove above"));
}

TEST_F(MergeBitmapsTest, AHoleBelowWhatGoesOnIsSeenAfterwards) {
    layer(std::nullopt);
    layer(recording("b"));
    cover(recording("b"));
    merged_.names_above = {"b"};
    EXPECT_THAT(actions(), ElementsAre("end n2"));
    stream();
    EXPECT_THAT(actions(), ElementsAre("add n1, ended"));
}

TEST_F(MergeBitmapsTest, WhatGoesOnNowhereNeedsNoMark) {
    layer(std::nullopt);
    layer(recording("b"));
    cover(std::nullopt);
    EXPECT_THAT(actions(), ElementsAre("remove n2"));
}

TEST_F(MergeBitmapsTest, AHoleAtTheBottomIsNotClosed) {
    layer(recording("b"));
    layer(std::nullopt);
    merged_.names_below = {"b"};
    EXPECT_THAT(actions(), IsEmpty()) << "the lower one, which is the top of the chain then, has none";
    stream();
    EXPECT_THAT(actions(), ElementsAre("remove n1"));
    merged_.covered = true;
    EXPECT_THAT(actions(), ElementsAre("end n1"));
}

TEST_F(MergeBitmapsTest, AboveAHoleOverARawLayerNothingIsLeft) {
    layer(std::nullopt);
    layer(recording("b"));
    layer(std::nullopt);
    nodes_.back().driver = "raw";
    cover(recording("b"));
    merged_.names_above = {"b"};
    EXPECT_THAT(actions(), ElementsAre("remove above"));
}

}  // namespace
}  // namespace volchain::storage::merge_bitmaps_test
