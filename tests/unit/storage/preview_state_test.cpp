// SPDX-License-Identifier: MIT
#include "storage/records/preview_state.h"

#include "storage/previews/preview.h"
#include "support.h"

namespace volchain::storage::preview_state_test {
namespace {

/// The sample's VM, whose disk shows its snapshot.
class PreviewStateTest : public testing::Test {
  protected:
    PreviewStateTest() {
        shown_ = new_volume(sample_.disk.id, sample_.pool.id, "shown.qcow2");
        sample_.disk.former = sample_.active.id;
        sample_.disk.active = shown_.id;
        sample_.vm.preview.emplace().snapshot = sample_.snapshot.id;
        Changes changes = sample_.changes();
        changes.put(shown_);
        catalog_.commit(std::move(changes));
        catalog_->set_facts(sample_.active.id, facts_over("/pool/base.raw"));
        catalog_->set_facts(shown_.id, facts_over("/pool/base.raw"));
    }

    SnapshotRecord add_snapshot(const std::string& name, const Uuid& parent, int usec) {
        SnapshotRecord snapshot = sample_.snapshot;
        snapshot.id = Uuid::make();
        snapshot.name = name;
        snapshot.parent = parent;
        snapshot.created = from_usec(static_cast<std::uint64_t>(usec));
        Changes changes;
        changes.put(snapshot);
        catalog_.commit(std::move(changes));
        return snapshot;
    }

    TestCatalog catalog_;
    Sample sample_;
    VolumeRecord shown_;
};

TEST_F(PreviewStateTest, NothingElseIsDoneMeanwhile) {
    expect_error(ErrorCode::busy, {"VM 'web'", "'before the upgrade'", "commit or undo"},
                 [&] { check_no_preview(*catalog_, sample_.vm.id); });
    EXPECT_NO_THROW(check_no_preview(*catalog_, Uuid{})) << "of a floating disk";
    sample_.vm.preview.reset();
    Changes changes;
    changes.put(sample_.vm);
    catalog_.commit(std::move(changes));
    EXPECT_NO_THROW(check_no_preview(*catalog_, sample_.vm.id));
    EXPECT_THAT(shown_snapshots(*catalog_, sample_.vm.id), IsEmpty());
}

TEST_F(PreviewStateTest, WhatIsShownFollowsFromTheChain) {
    EXPECT_EQ(shown_volume(*catalog_, sample_.disk.id), sample_.base.id);
    EXPECT_THAT(shown_snapshots(*catalog_, sample_.vm.id), ElementsAre(sample_.snapshot.id));
    // The header names another file now.
    catalog_->set_facts(shown_.id, facts_over("/pool/elsewhere"));
    EXPECT_EQ(shown_volume(*catalog_, sample_.disk.id), Uuid{});
    EXPECT_THAT(shown_snapshots(*catalog_, sample_.vm.id), ElementsAre(sample_.snapshot.id));
}

TEST_F(PreviewStateTest, ADiskThatIsNotPreviewedShowsNothing) {
    sample_.disk.former = Uuid{};
    Changes changes;
    changes.put(sample_.disk);
    catalog_.commit(std::move(changes));
    EXPECT_EQ(shown_volume(*catalog_, sample_.disk.id), Uuid{});
}

TEST_F(PreviewStateTest, LocksGoIntoThePlanAndBack) {
    JobRecord job;
    const std::vector<ObjectId> locks = vm_with_disks(*catalog_, sample_.vm.id);
    EXPECT_THAT(locks, ElementsAre(ObjectId{ObjectKind::vm, sample_.vm.id},
                                   ObjectId{ObjectKind::disk, sample_.disk.id}));
    job.plan["locked"] = plan_of_locks(locks);
    EXPECT_EQ(locks_of_preview(job), locks);
    job.plan["locked"][0]["kind"] = "nothing";
    expect_error(ErrorCode::internal, {"locked"}, [&] { (void)locks_of_preview(job); });
}

TEST_F(PreviewStateTest, TheSnapshotThatLeads) {
    const Uuid first = sample_.snapshot.id;
    const Uuid second = add_snapshot("second", first, 200).id;
    const Uuid third = add_snapshot("third", second, 300).id;
    const Uuid branch = add_snapshot("branch", first, 250).id;
    const auto leading = [&](const std::vector<Uuid>& chosen, const Uuid& config) {
        std::map<Uuid, Uuid> choice;
        for (const Uuid& snapshot : chosen) choice.emplace(Uuid::make(), snapshot);
        return leading_snapshot(*catalog_, choice, config);
    };
    EXPECT_EQ(leading({first}, Uuid{}), first);
    EXPECT_EQ(leading({first, third, second}, Uuid{}), third) << "all others are its ancestors";
    EXPECT_EQ(leading({first, third}, second), third) << "whatever the configuration is of";
    EXPECT_EQ(leading({third, branch}, Uuid{}), third) << "the youngest";
    EXPECT_EQ(leading({second, branch, first}, Uuid{}), first) << "the sample's is the youngest here";
    EXPECT_EQ(leading({third, branch}, branch), branch);
}

}  // namespace
}  // namespace volchain::storage::preview_state_test
