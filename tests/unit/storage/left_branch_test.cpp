// SPDX-License-Identifier: MIT
#include "storage/previews/left_branch.h"

#include "support.h"

namespace volchain::storage::left_branch_test {
namespace {

/// A VM whose volumes and snapshots are put in one by one; names stand for ids.
class LeftBranchTest : public testing::Test {
  protected:
    LeftBranchTest() {
        pool_ = {Uuid::make(), "pool", "/pool"};
        vm_.id = Uuid::make();
        vm_.name = "web";
        Changes changes;
        changes.put(pool_).put(vm_);
        catalog_.commit(std::move(changes));
    }

    /// A disk of a chain of volumes, base first; the last is active.
    Uuid disk(const std::vector<std::string>& chain, bool of_vm = true) {
        DiskRecord disk;
        disk.id = Uuid::make();
        disk.name = chain.back();
        if (of_vm) disk.vm = vm_.id;
        Changes changes;
        std::string below;
        for (const std::string& name : chain) {
            if (!volumes_.contains(name)) add_volume(changes, disk.id, name, below);
            below = name;
        }
        disk.active = volumes_.at(chain.back());
        changes.put(disk);
        catalog_.commit(std::move(changes));
        return disk.id;
    }

    /// Another volume of a disk.
    void branch(const Uuid& disk, const std::string& name, const std::string& below) {
        Changes changes;
        add_volume(changes, disk, name, below);
        catalog_.commit(std::move(changes));
    }

    void snapshot(const std::string& name, const std::string& parent,
                  const std::vector<std::pair<Uuid, std::string>>& disks) {
        SnapshotRecord record;
        record.id = Uuid::make();
        record.vm = vm_.id;
        record.name = name;
        if (!parent.empty()) record.parent = snapshots_.at(parent);
        record.status = SnapshotStatus::ok;
        for (const auto& [disk, volume] : disks) record.disks.push_back({disk, volumes_.at(volume)});
        snapshots_[name] = record.id;
        Changes changes;
        changes.put(record);
        catalog_.commit(std::move(changes));
    }

    void current(const std::string& name) {
        vm_.current_snapshot = snapshots_.at(name);
        Changes changes;
        changes.put(vm_);
        catalog_.commit(std::move(changes));
    }

    std::set<std::string> snapshots_that_go(const Leaves& leaves, const std::vector<std::string>& shown) {
        std::set<Uuid> ids;
        for (const std::string& name : shown) ids.insert(snapshots_.at(name));
        going_ = abandoned_snapshots(*catalog_, vm_.id, leaves, ids);
        return names(going_, snapshots_);
    }
    /// When those go that the last call told.
    std::set<std::string> volumes_that_go(const Leaves& leaves) {
        const std::vector<Uuid> ids = abandoned_volumes(*catalog_, leaves, going_);
        return names({ids.begin(), ids.end()}, volumes_);
    }
    [[nodiscard]] Uuid volume(const std::string& name) const { return volumes_.at(name); }

    using Names = std::set<std::string>;

    TestCatalog catalog_;
    PoolRecord pool_;
    VmRecord vm_;

  private:
    void add_volume(Changes& changes, const Uuid& disk, const std::string& name, const std::string& below) {
        VolumeRecord volume = new_volume(disk, pool_.id, name);
        volumes_[name] = volume.id;
        catalog_->set_facts(volume.id, facts_over(below.empty() ? "" : "/pool/" + below));
        changes.put(std::move(volume));
    }
    static Names names(const std::set<Uuid>& ids, const std::map<std::string, Uuid>& all) {
        Names found;
        for (const auto& [name, id] : all)
            if (ids.contains(id)) found.insert(name);
        return found;
    }

    std::map<std::string, Uuid> volumes_;
    std::map<std::string, Uuid> snapshots_;
    std::set<Uuid> going_;
};

TEST_F(LeftBranchTest, WhatIsAboveTheSnapshotThatIsShown) {
    const Uuid a = disk({"a1", "a2", "a3", "a4"});
    snapshot("s1", "", {{a, "a1"}});
    snapshot("s2", "s1", {{a, "a2"}});
    snapshot("s3", "s2", {{a, "a3"}});
    current("s3");
    const Leaves leaves{{a, volume("a4")}};
    EXPECT_EQ(snapshots_that_go(leaves, {"s1"}), (Names{"s2", "s3"}));
    EXPECT_EQ(volumes_that_go(leaves), (Names{"a2", "a3", "a4"}));
    EXPECT_EQ(snapshots_that_go(leaves, {"s3"}), Names{});
    EXPECT_EQ(volumes_that_go(leaves), Names{"a4"});
    EXPECT_EQ(snapshots_that_go(leaves, {"s1", "s2"}), Names{"s3"}) << "several are shown";
    EXPECT_EQ(snapshots_that_go(leaves, {}), (Names{"s1", "s2", "s3"}));
}

TEST_F(LeftBranchTest, LayersThatNoSnapshotNames) {
    const Uuid a = disk({"a1", "x1", "a2", "x2", "leaf"});
    snapshot("s1", "", {{a, "a1"}});
    snapshot("s2", "s1", {{a, "a2"}});
    current("s2");
    const Leaves leaves{{a, volume("leaf")}};
    EXPECT_EQ(snapshots_that_go(leaves, {"s1"}), Names{"s2"});
    EXPECT_EQ(volumes_that_go(leaves), (Names{"x1", "a2", "x2", "leaf"}));
    EXPECT_EQ(snapshots_that_go(leaves, {"s2"}), Names{});
    EXPECT_EQ(volumes_that_go(leaves), (Names{"x2", "leaf"}));
}

TEST_F(LeftBranchTest, ASnapshotWithAnotherChildStaysAndAllAboveIt) {
    const Uuid a = disk({"a1", "a2", "a3", "leaf"});
    branch(a, "b3", "a2");
    snapshot("s1", "", {{a, "a1"}});
    snapshot("s2", "s1", {{a, "a2"}});
    snapshot("s3", "s2", {{a, "a3"}});
    snapshot("other", "s2", {{a, "b3"}});
    current("s3");
    const Leaves leaves{{a, volume("leaf")}};
    EXPECT_EQ(snapshots_that_go(leaves, {"s1"}), Names{"s3"});
    EXPECT_EQ(volumes_that_go(leaves), (Names{"a3", "leaf"}));
    EXPECT_EQ(snapshots_that_go(leaves, {"other"}), Names{"s3"});
}

TEST_F(LeftBranchTest, WhatOtherDisksOfTheVmStandOnStays) {
    const Uuid a = disk({"a1", "a2", "a3"});
    const Uuid b = disk({"b1", "b2", "b3"});
    (void)disk({"in no snapshot"});
    snapshot("s1", "", {{a, "a1"}, {b, "b1"}});
    snapshot("s2", "s1", {{a, "a2"}, {b, "b2"}});
    current("s2");
    const Leaves both{{a, volume("a3")}, {b, volume("b3")}};
    EXPECT_EQ(snapshots_that_go(both, {"s1"}), Names{"s2"});
    EXPECT_EQ(volumes_that_go(both), (Names{"a2", "a3", "b2", "b3"}));
    const Leaves one{{a, volume("a3")}};
    EXPECT_EQ(snapshots_that_go(one, {"s1"}), Names{}) << "b stands on s2";
    EXPECT_EQ(volumes_that_go(one), Names{"a3"});
}

TEST_F(LeftBranchTest, VolumesOfASnapshotBesideTheBranch) {
    // As after a commit that left some disks where they were: s2 is an ancestor of s3, but not all its volumes
    // are below those of s3.
    const Uuid a = disk({"a1", "a3", "leaf"});
    branch(a, "a2", "a1");
    snapshot("s1", "", {{a, "a1"}});
    snapshot("s2", "s1", {{a, "a2"}});
    snapshot("s3", "s2", {{a, "a3"}});
    current("s3");
    const Leaves leaves{{a, volume("leaf")}};
    EXPECT_EQ(snapshots_that_go(leaves, {"s1"}), (Names{"s2", "s3"}));
    EXPECT_EQ(volumes_that_go(leaves), (Names{"a2", "a3", "leaf"}));
}

TEST_F(LeftBranchTest, VolumesThatOthersNeed) {
    const Uuid a = disk({"a1", "a2", "a3", "leaf"});
    snapshot("s1", "", {{a, "a1"}});
    snapshot("s2", "s1", {{a, "a2"}});
    snapshot("s3", "s2", {{a, "a3"}});
    current("s3");
    (void)disk({"a2", "clone"}, false);
    const Leaves leaves{{a, volume("leaf")}};
    EXPECT_EQ(snapshots_that_go(leaves, {"s1"}), (Names{"s2", "s3"}));
    EXPECT_EQ(volumes_that_go(leaves), (Names{"a3", "leaf"})) << "the clone stands on a2";
    branch(a, "x", "leaf");
    EXPECT_EQ(volumes_that_go(leaves), Names{}) << "a volume that nobody knows why it is there";
}

TEST_F(LeftBranchTest, WhatIsOnTopGoesFirst) {
    const Uuid a = disk({"a1", "a2", "a3", "leaf"});
    snapshot("s1", "", {{a, "a1"}});
    EXPECT_THAT(abandoned_volumes(*catalog_, {{a, volume("leaf")}}, {}),
                ElementsAre(volume("leaf"), volume("a3"), volume("a2")));
}

TEST_F(LeftBranchTest, ACircleOfParentsIsNoEndlessWay) {
    const Uuid a = disk({"a1", "leaf"});
    snapshot("s1", "", {{a, "a1"}});
    snapshot("s2", "s1", {});
    SnapshotRecord first = catalog_->snapshot(catalog_->snapshots_of_vm(vm_.id).front());
    current("s2");
    Changes changes;
    first.parent = vm_.current_snapshot;
    changes.put(first);
    catalog_.commit(std::move(changes));
    EXPECT_EQ(snapshots_that_go({{a, volume("leaf")}}, {}).size(), 0U);
}

}  // namespace
}  // namespace volchain::storage::left_branch_test
