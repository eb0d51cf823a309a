// SPDX-License-Identifier: MIT
#include "storage/jobs/held_volumes.h"

#include "storage/merges/merge_step.h"
#include "support.h"

namespace volchain::storage::held_volumes_test {
namespace {

/// A chain base <- middle <- top of one disk, and a branch middle <- side.
class HeldVolumesTest : public testing::Test {
  protected:
    HeldVolumesTest() {
        PoolRecord pool{Uuid::make(), "p", "/pool"};
        base_ = add(pool.id, "base", "");
        disk_ = new_disk(base_, "d");
        middle_ = add(pool.id, "middle", "/pool/base");
        top_ = add(pool.id, "top", "/pool/middle");
        side_ = add(pool.id, "side", "/pool/middle");
        disk_.active = top_.id;
        Changes changes;
        changes.put(pool).put(disk_);
        for (const VolumeRecord& volume : volumes_) changes.put(volume);
        catalog_.commit(std::move(changes));
        for (std::size_t i = 0; i < volumes_.size(); ++i)
            catalog_->set_facts(volumes_[i].id, facts_over(backing_[i]));
    }

    VolumeRecord add(const Uuid& pool, const std::string& file, const std::string& backing) {
        const Uuid disk = volumes_.empty() ? Uuid::make() : volumes_.front().disk;
        volumes_.push_back(new_volume(disk, pool, file));
        backing_.push_back(backing);
        return volumes_.back();
    }

    ExportRecord shown(const VolumeRecord& volume) {
        ExportRecord record;
        record.id = Uuid::make();
        record.volume = volume.id;
        record.disk = volume.disk;
        record.snapshot = Uuid::make();
        record.owner_uid = 1000;
        return record;
    }
    void show(const ExportRecord& record) {
        Changes changes;
        changes.put(record);
        catalog_.commit(std::move(changes));
    }

    TestCatalog catalog_;
    std::vector<VolumeRecord> volumes_;
    std::vector<std::string> backing_;
    VolumeRecord base_, middle_, top_, side_;
    DiskRecord disk_;
};

TEST_F(HeldVolumesTest, AreTheVolumeAndAllBelow) {
    EXPECT_EQ(export_holding(*catalog_, base_.id), nullptr);
    const ExportRecord record = shown(middle_);
    show(record);
    for (const Uuid& id : {base_.id, middle_.id}) {
        ASSERT_NE(export_holding(*catalog_, id), nullptr);
        expect_error(ErrorCode::busy, {"export " + record.id.str(), "user 1000"},
                     [&] { check_not_exported(*catalog_, id); });
    }
    EXPECT_EQ(export_holding(*catalog_, top_.id), nullptr);
    EXPECT_NO_THROW(check_not_exported(*catalog_, side_.id));
}

TEST_F(HeldVolumesTest, AreHeldBeforeTheRecordIsThere) {
    const ExportRecord record = shown(side_);
    {
        const Catalog::ExportClaim claim(*catalog_, record);
        EXPECT_NE(export_holding(*catalog_, base_.id), nullptr);
        expect_error(ErrorCode::busy, {record.id.str()},
                     [&] { check_snapshot_not_exported(*catalog_, record.snapshot); });
    }
    EXPECT_EQ(export_holding(*catalog_, base_.id), nullptr);
}

TEST_F(HeldVolumesTest, AreHeldAlsoWhereTheVolumeIsForgotten) {
    ExportRecord record = shown(top_);
    record.volume = Uuid::make();
    show(record);
    EXPECT_NE(export_holding(*catalog_, record.volume), nullptr);
    EXPECT_EQ(export_holding(*catalog_, top_.id), nullptr);
}

TEST_F(HeldVolumesTest, OfASnapshotAreToldBySnapshot) {
    const ExportRecord record = shown(middle_);
    show(record);
    EXPECT_NO_THROW(check_snapshot_not_exported(*catalog_, Uuid::make()));
    expect_error(ErrorCode::busy, {record.snapshot.str(), record.id.str()},
                 [&] { check_snapshot_not_exported(*catalog_, record.snapshot); });
}

TEST_F(HeldVolumesTest, AreNoLeftoversToBeTakenAlong) {
    VolumeRecord leftover = base_;
    leftover.mark = VolumeMark::leftover;
    Changes changes;
    changes.put(leftover);
    catalog_.commit(std::move(changes));
    EXPECT_TRUE(next_merge_step(*catalog_, disk_.id, {}, Direction::automatic, {}).has_value());
    show(shown(side_));
    EXPECT_FALSE(next_merge_step(*catalog_, disk_.id, {}, Direction::automatic, {}).has_value());
}

}  // namespace
}  // namespace volchain::storage::held_volumes_test
