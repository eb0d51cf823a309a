// SPDX-License-Identifier: MIT
#include "storage/checkpoints/checkpoints.h"

#include "storage/checkpoints/export_bitmap.h"
#include "support.h"

namespace volchain::storage::checkpoints_test {
namespace {

TEST(CheckpointName, IsThatOfItsBitmap) {
    const CheckpointName monday("monday", from_usec(1'700'000'000'000'000));
    EXPECT_EQ(monday.bitmap(), "vc.1700000000000000.monday");
    EXPECT_EQ(CheckpointName::of_bitmap(monday.bitmap()), monday);
    const CheckpointName dotted("a.b.c", from_usec(1'000'000'000'000'000));
    EXPECT_EQ(CheckpointName::of_bitmap(dotted.bitmap()), dotted);
}

TEST(CheckpointName, TellsOursFromOthers) {
    for (const std::string bitmap :
         {"", "monday", "vc.", "vc.monday", "vc.17.monday", "vc.170000000000000x.monday",
          "vc-1700000000000000-monday", "vc.17000000000000000.monday", "vc.1700000000000000.",
          "vc.1700000000000000", "Vc.1700000000000000.monday", "vc.+700000000000000.monday",
          "xvc.1700000000000000.monday", "vc.1700000000000000.a/../../b", "vc.1700000000000000.a\nb",
          "vc.1700000000000000.\xff", "vc.1700000000000000. monday"})
        EXPECT_EQ(CheckpointName::of_bitmap(bitmap), std::nullopt) << bitmap;
}

class RecordingTest : public testing::Test {
  protected:
    static qmp::Node layer(const std::string& name, std::vector<std::string> bitmaps) {
        qmp::Node node;
        node.filename = name;
        node.virtual_size = 1 << 20;
        for (const std::string& bitmap : bitmaps) {
            qmp::DirtyBitmap& added = node.bitmaps.emplace_back();
            added.name = bitmap;
            added.granularity = 65536;
            added.recording = added.persistent = true;
        }
        return node;
    }
    [[nodiscard]] Recording recording() const {
        std::vector<const qmp::Node*> pointers;
        for (const qmp::Node& node : layers_) pointers.push_back(&node);
        return recording_in(pointers, "b");
    }
    std::vector<qmp::Node> layers_;
};

TEST_F(RecordingTest, GoesFromTheTopDownWithoutAGap) {
    layers_ = {layer("top", {"a", "b"}), layer("mid", {"b"}), layer("base", {"a"})};
    EXPECT_EQ(recording().flaw, "");
    EXPECT_EQ(recording().layers.size(), 2u);
    layers_ = {layer("top", {"b"}), layer("mid", {}), layer("base", {"b"})};
    EXPECT_THAT(recording().flaw, testing::AllOf(testing::HasSubstr("base"), testing::HasSubstr("above")));
}

TEST_F(RecordingTest, IsUnknownToATopThatHasNone) {
    layers_ = {layer("top", {"a"}), layer("base", {"b"})};
    EXPECT_FALSE(recording().known);
    EXPECT_THAT(recording().flaw, testing::HasSubstr("top"));
}

TEST_F(RecordingTest, IsWorthNothingWithOnePartThatIs) {
    const auto spoilt = [&](const auto& spoil) {
        layers_ = {layer("top", {"b"}), layer("base", {"b"})};
        spoil(layers_.back());
        EXPECT_TRUE(recording().known);
        EXPECT_THAT(recording().flaw, testing::HasSubstr("base"));
    };
    spoilt([](qmp::Node& node) { node.bitmaps.front().inconsistent = true; });
    spoilt([](qmp::Node& node) { node.bitmaps.front().recording = false; });
    spoilt([](qmp::Node& node) { node.bitmaps.front().granularity = 4096; });
    spoilt([](qmp::Node& node) { node.virtual_size = 2 << 20; });
}

}  // namespace
}  // namespace volchain::storage::checkpoints_test
