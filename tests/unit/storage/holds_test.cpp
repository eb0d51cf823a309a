// SPDX-License-Identifier: MIT
#include "storage/jobs/holds.h"

#include "support.h"

namespace volchain::storage::holds_test {
namespace {

/// Two volumes of one disk.
class HoldsTest : public testing::Test {
  protected:
    HoldsTest() {
        PoolRecord pool{Uuid::make(), "p", "/pool"};
        base_ = new_volume(Uuid::make(), pool.id, "base");
        top_ = new_volume(base_.disk, pool.id, "top");
        DiskRecord disk = new_disk(top_, "d");
        Changes changes;
        changes.put(pool).put(disk).put(base_).put(top_);
        catalog_.commit(std::move(changes));
    }

    /// A job that holds the disk.
    [[nodiscard]] Locks::Held work(const std::string& kind, bool recorded) {
        JobRecord job;
        job.id = Uuid::make();
        job.kind = kind;
        job.subject = {ObjectKind::disk, base_.disk};
        job.state = JobState::running;
        Locks::Held held = locks_.take({job.subject}, kind, job.id);
        if (!recorded) return held;
        Changes changes;
        changes.put(std::move(job));
        catalog_.commit(std::move(changes));
        return held;
    }

    TestCatalog catalog_;
    Locks locks_{*catalog_};
    Holds holds_{*catalog_, locks_};
    VolumeRecord base_, top_;
};

TEST_F(HoldsTest, EndWithTheirScope) {
    {
        const Holds::Hold one = holds_.take({base_.id}, "a clone of it");
        const Holds::Hold another = holds_.take({base_.id}, "a checksum");
        expect_error(ErrorCode::busy, {"base", "a clone of it"}, [&] { holds_.check_free({base_.id}); });
        EXPECT_NO_THROW(holds_.check_free({top_.id}));
    }
    EXPECT_NO_THROW(holds_.check_free({base_.id, top_.id}));
}

TEST_F(HoldsTest, MoveAndAreGivenBack) {
    Holds::Hold first = holds_.take({base_.id}, "a clone");
    Holds::Hold second = std::move(first);
    expect_error(ErrorCode::busy, {}, [&] { holds_.check_free({base_.id}); });
    second.release();
    EXPECT_NO_THROW(holds_.check_free({base_.id}));
}

TEST_F(HoldsTest, AreRefusedWhileVolumesMayGo) {
    const Locks::Held held = work("delete-snapshot", true);
    expect_error(ErrorCode::busy, {"delete-snapshot"}, [&] { (void)holds_.take({base_.id}, "a clone"); });
}

TEST_F(HoldsTest, GoTogetherWithOperationsThatOnlyAddVolumes) {
    const Locks::Held held = work("create-snapshot", true);
    EXPECT_NO_THROW((void)holds_.take({base_.id}, "a clone"));
}

TEST_F(HoldsTest, AreRefusedWhileAnOperationBeginsThatHasNoRecordYet) {
    const Locks::Held held = work("create-snapshot", false);
    expect_error(ErrorCode::busy, {"begins"}, [&] { (void)holds_.take({base_.id}, "a clone"); });
}

}  // namespace
}  // namespace volchain::storage::holds_test
