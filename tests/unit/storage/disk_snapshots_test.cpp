// SPDX-License-Identifier: MIT
#include "storage/vms/disk_snapshots.h"

#include "support.h"

namespace volchain::storage::disk_snapshots_test {
namespace {

/// A VM with the disks `root` and `data`, each of one volume, and snapshots that are told apart by their names. Nobody looks
/// at files.
class DiskSnapshots : public testing::Test {
  protected:
    DiskSnapshots() {
        pool_ = {Uuid::make(), "main", "/pool"};
        vm_.id = Uuid::make();
        vm_.name = "web";
        Changes changes;
        changes.put(pool_).put(vm_);
        for (const auto& [disk, name] : {std::pair(&root_, "root"), std::pair(&data_, "data")}) {
            VolumeRecord volume = new_volume(Uuid::make(), pool_.id, std::string(name) + ".qcow2");
            *disk = new_disk(volume, name);
            disk->vm = vm_.id;
            changes.put(volume).put(*disk);
        }
        catalog_.commit(std::move(changes));
    }

    /// The VM's, and its current one.
    Uuid take(const std::string& name, const std::vector<DiskRecord>& disks, const Uuid& parent) {
        Changes changes;
        const Uuid id = put(name, vm_.id, disks, parent, changes);
        VmRecord vm = catalog_->vm(vm_.id);
        vm.current_snapshot = id;
        changes.put(std::move(vm));
        catalog_.commit(std::move(changes));
        return id;
    }
    Uuid take_floating(const std::string& name, const Uuid& parent) {
        Changes changes;
        const Uuid id = put(name, Uuid{}, {data_}, parent, changes);
        catalog_.commit(std::move(changes));
        return id;
    }

    /// Each snapshot as "name < parent", those that are no VM's in parentheses.
    [[nodiscard]] std::vector<std::string> tree() {
        std::vector<std::string> all;
        for (const auto& [id, snapshot] : catalog_->snapshots()) {
            std::string text = snapshot.name;
            if (snapshot.parent) text += " < " + catalog_->snapshot(snapshot.parent).name;
            all.push_back(snapshot.vm ? text : "(" + text + ")");
        }
        return all;
    }
    [[nodiscard]] std::string current() {
        const Uuid id = catalog_->vm(vm_.id).current_snapshot;
        return id ? catalog_->snapshot(id).name : "";
    }

    TestCatalog catalog_;
    PoolRecord pool_;
    VmRecord vm_;
    DiskRecord root_;
    DiskRecord data_;

  private:
    Uuid put(const std::string& name, const Uuid& vm, const std::vector<DiskRecord>& disks,
             const Uuid& parent, Changes& changes) {
        SnapshotRecord snapshot;
        snapshot.id = Uuid::make();
        snapshot.vm = vm;
        snapshot.name = name;
        snapshot.parent = parent;
        snapshot.created = from_usec(++time_);
        snapshot.status = SnapshotStatus::ok;
        for (const DiskRecord& disk : disks) snapshot.disks.push_back({disk.id, disk.active});
        changes.put(snapshot);
        return snapshot.id;
    }
    std::uint64_t time_ = 0;
};

TEST_F(DiskSnapshots, GoAlongAndLeaveATreeBehind) {
    // both <- a(data) <- b(data) <- c(root) <- d(data), and beside b: e(root)
    const Uuid both = take("both", {root_, data_}, Uuid{});
    const Uuid a = take("a", {data_}, both);
    (void)take("e", {root_}, a);
    const Uuid b = take("b", {data_}, a);
    const Uuid c = take("c", {root_}, b);
    (void)take("d", {data_}, c);
    Changes changes;
    snapshots_go_along(*catalog_, data_.id, vm_.id, changes);
    catalog_.commit(std::move(changes));
    EXPECT_THAT(tree(), UnorderedElementsAre("both", "c < both", "e < both", "(a)", "(b < a)", "(d < b)"));
    EXPECT_EQ(current(), "c");
    catalog_.reopen();
    EXPECT_EQ(tree().size(), 6u);
}

TEST_F(DiskSnapshots, GoAlongAndLeaveNothing) {
    (void)take("b", {data_}, take("a", {data_}, Uuid{}));
    Changes changes;
    snapshots_go_along(*catalog_, data_.id, vm_.id, changes);
    catalog_.commit(std::move(changes));
    EXPECT_THAT(tree(), UnorderedElementsAre("(a)", "(b < a)"));
    EXPECT_EQ(current(), "");
}

TEST_F(DiskSnapshots, ChangeNothingWhereThereAreNone) {
    (void)take("b", {root_}, take("a", {root_, data_}, Uuid{}));
    Changes changes;
    snapshots_go_along(*catalog_, data_.id, vm_.id, changes);
    EXPECT_TRUE(changes.empty());
}

TEST_F(DiskSnapshots, ComeAlongUnderNamesThatAreFree) {
    (void)take("a", {root_}, Uuid{});
    (void)take_floating("b", take_floating("a", Uuid{}));
    std::vector<std::string> taken = snapshot_names(*catalog_, vm_.id);
    Changes changes;
    snapshots_come_along(*catalog_, data_.id, vm_.id, taken, changes);
    catalog_.commit(std::move(changes));
    EXPECT_THAT(tree(), UnorderedElementsAre("a", "a-2", "b < a-2"));
    EXPECT_EQ(current(), "a");
    EXPECT_THAT(taken, UnorderedElementsAre("a", "a-2", "b"));
}

TEST_F(DiskSnapshots, LoseADiskThatGoes) {
    const Uuid both = take("both", {root_, data_}, Uuid{});
    const Uuid a = take("a", {data_}, both);
    (void)take("c", {data_}, take("b", {root_}, a));
    (void)take_floating("floating", Uuid{});
    Changes changes;
    EXPECT_THAT(snapshots_lose_disk(*catalog_, data_.id, changes), IsEmpty());
    catalog_.commit(std::move(changes));
    EXPECT_THAT(tree(), UnorderedElementsAre("both", "b < both"));
    EXPECT_EQ(current(), "b");
    const SnapshotRecord& left = catalog_->snapshot(both);
    EXPECT_EQ(left.status, SnapshotStatus::partial);
    EXPECT_THAT(left.disks, ElementsAre(SnapshotDisk{root_.id, root_.active}));
    ASSERT_EQ(left.excluded.size(), 1u);
    EXPECT_EQ(left.excluded.front().disk, data_.id);
}

TEST_F(DiskSnapshots, OfAFloatingDiskStandOnTheYoungestInItsChain) {
    EXPECT_TRUE(current_floating_snapshot(*catalog_, data_.id).nil());
    const Uuid a = take_floating("a", Uuid{});
    const Uuid b = take_floating("b", a);
    EXPECT_EQ(current_floating_snapshot(*catalog_, data_.id), b);
    (void)take("of the VM", {data_}, Uuid{});
    EXPECT_EQ(current_floating_snapshot(*catalog_, data_.id), b) << "another tree";
    // Of a volume that the disk does not stand on any more.
    VolumeRecord elsewhere = new_volume(data_.id, pool_.id, "branch.qcow2");
    SnapshotRecord moved = catalog_->snapshot(b);
    moved.disks = {{data_.id, elsewhere.id}};
    Changes changes;
    changes.put(elsewhere).put(moved);
    catalog_.commit(std::move(changes));
    EXPECT_EQ(current_floating_snapshot(*catalog_, data_.id), a);
}

}  // namespace
}  // namespace volchain::storage::disk_snapshots_test
