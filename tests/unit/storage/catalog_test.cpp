// SPDX-License-Identifier: MIT
#include "storage/records/catalog.h"

#include "support.h"

namespace volchain::storage::catalog_test {
namespace {

using Told = std::pair<ObjectId, ChangeKind>;

class CatalogTest : public testing::Test {
  protected:
    CatalogTest() {
        catalog_.commit(sample_.changes());
        catalog_->watch([this](ObjectId object, ChangeKind change) { told_.emplace_back(object, change); });
    }

    void commit(Changes changes) { catalog_.commit(std::move(changes)); }
    template <typename T>
    void put(T record) {
        Changes changes;
        changes.put(std::move(record));
        commit(std::move(changes));
    }
    /// A volume of the sample's disk, with facts.
    VolumeRecord add_volume(const std::string& file, const std::string& backing) {
        VolumeRecord volume = new_volume(sample_.disk.id, sample_.pool.id, file);
        put(volume);
        catalog_->set_facts(volume.id, facts_over(backing));
        return volume;
    }

    TestCatalog catalog_;
    Sample sample_;
    std::vector<Told> told_;
};

TEST_F(CatalogTest, HasWhatWasCommittedAndSoAfterARestart) {
    for (int round = 0; round < 2; ++round) {
        EXPECT_EQ(catalog_->pool(sample_.pool.id).name, "fast");
        EXPECT_EQ(catalog_->disk(sample_.disk.id).target, "serial0");
        EXPECT_EQ(catalog_->volume(sample_.base.id).file, "base.raw");
        EXPECT_EQ(catalog_->vm(sample_.vm.id).config, "<domain/>");
        EXPECT_EQ(catalog_->snapshot(sample_.snapshot.id).excluded, sample_.snapshot.excluded);
        EXPECT_EQ(catalog_->job(sample_.job.id).step, "nodes");
        EXPECT_THAT(catalog_->ids(ObjectKind::volume),
                    UnorderedElementsAre(sample_.base.id, sample_.active.id));
        EXPECT_THAT(catalog_->ids(ObjectKind::job), ElementsAre(sample_.job.id));
        EXPECT_EQ(catalog_->find_volume("/pool/deeper/top.qcow2")->id, sample_.active.id);
        catalog_.reopen();
    }
}

TEST_F(CatalogTest, SaysWhatIsNotThere) {
    const Uuid id = Uuid::make();
    expect_error(ErrorCode::not_found, {"no disk", id.str()}, [&] { (void)catalog_->disk(id); });
    expect_error(ErrorCode::not_found, {"no VM", id.str()}, [&] { (void)catalog_->vm(id); });
    expect_error(ErrorCode::not_found, {"no job", id.str()}, [&] { (void)catalog_->job(Uuid(id)); });
    for (const auto& [kind, text] : enum_names(ObjectKind{})) EXPECT_FALSE(catalog_->has({kind, id})) << text;
    EXPECT_EQ(catalog_->find_volume("/pool/none"), nullptr);
}

TEST_F(CatalogTest, DescribesObjectsByNameAndId) {
    EXPECT_EQ(catalog_->describe({ObjectKind::pool, sample_.pool.id}),
              "pool 'fast' (" + sample_.pool.id.str() + ")");
    EXPECT_EQ(catalog_->describe({ObjectKind::disk, sample_.disk.id}),
              "disk 'root' (" + sample_.disk.id.str() + ")");
    EXPECT_EQ(catalog_->describe({ObjectKind::volume, sample_.active.id}),
              "volume '/pool/deeper/top.qcow2' (" + sample_.active.id.str() + ")");
    EXPECT_EQ(catalog_->describe({ObjectKind::vm, sample_.vm.id}), "VM 'web' (" + sample_.vm.id.str() + ")");
    EXPECT_EQ(catalog_->describe({ObjectKind::snapshot, sample_.snapshot.id}),
              "snapshot 'before the upgrade' (" + sample_.snapshot.id.str() + ")");
    EXPECT_EQ(catalog_->describe({ObjectKind::job, sample_.job.id}),
              "job " + sample_.job.id.str() + " (create-snapshot)");
    const Uuid gone = Uuid::make();
    EXPECT_EQ(catalog_->describe({ObjectKind::volume, gone}), "volume " + gone.str());
}

TEST_F(CatalogTest, TellsOfEachChangeOnceItIsOnDisk) {
    DiskRecord disk = sample_.disk;
    disk.name = "system";
    const VolumeRecord volume = new_volume(disk.id, sample_.pool.id, "new");
    Changes changes;
    changes.put(disk).put(volume).remove(ObjectKind::job, sample_.job.id);
    commit(std::move(changes));
    EXPECT_THAT(told_, ElementsAre(Told{{ObjectKind::disk, disk.id}, ChangeKind::changed},
                                   Told{{ObjectKind::volume, volume.id}, ChangeKind::added},
                                   Told{{ObjectKind::job, sample_.job.id}, ChangeKind::removed}));
    EXPECT_EQ(catalog_->disk(disk.id).name, "system");
    EXPECT_FALSE(catalog_->has({ObjectKind::job, sample_.job.id}));
}

TEST_F(CatalogTest, StaysAsItIsWhereACommitFails) {
    PoolRecord renamed = sample_.pool;
    renamed.name = "renamed";
    Changes changes;
    changes.put(renamed).put(PoolRecord{Uuid::make(), "twin", sample_.pool.path});
    expect_error(ErrorCode::already_exists, {"pool.path"}, [&] { commit(std::move(changes)); });
    EXPECT_EQ(catalog_->pool(sample_.pool.id).name, "fast");
    EXPECT_EQ(catalog_->pools().size(), 1u);
    EXPECT_THAT(told_, IsEmpty());
}

TEST_F(CatalogTest, KnowsWhatBelongsToWhat) {
    const VolumeRecord other = new_volume(Uuid::make(), sample_.pool.id, "other.qcow2");
    Changes changes;
    changes.put(other).put(new_disk(other, "floating"));
    commit(std::move(changes));
    EXPECT_THAT(catalog_->disks_of_vm(sample_.vm.id), ElementsAre(sample_.disk.id));
    EXPECT_THAT(catalog_->disks_of_vm(Uuid{}), ElementsAre(other.disk));
    EXPECT_THAT(catalog_->snapshots_of_vm(sample_.vm.id), ElementsAre(sample_.snapshot.id));
    EXPECT_THAT(catalog_->snapshots_of_vm(Uuid::make()), IsEmpty());
    EXPECT_THAT(catalog_->volumes_of_disk(sample_.disk.id),
                UnorderedElementsAre(sample_.base.id, sample_.active.id));
}

TEST_F(CatalogTest, FindsTheDeepestPoolAroundAPath) {
    put(PoolRecord{Uuid::make(), "whole", "/"});
    const PoolRecord inner{Uuid::make(), "inner", "/pool/inner"};
    put(inner);
    const auto place = [&](const std::string& path) {
        const auto found = catalog_->place(path);
        return found ? catalog_->pool(found->pool).name + " " + found->file : "";
    };
    EXPECT_EQ(place("/pool/a.qcow2"), "fast a.qcow2");
    EXPECT_EQ(place("/pool/deeper/a.qcow2"), "fast deeper/a.qcow2");
    EXPECT_EQ(place("/pool/inner/a.qcow2"), "inner a.qcow2");
    EXPECT_EQ(place("/pool/inner2/a.qcow2"), "fast inner2/a.qcow2");
    EXPECT_EQ(place("/poolside/a.qcow2"), "whole poolside/a.qcow2");
    EXPECT_EQ(place("/pool/"), "whole pool/");
    Changes removal;
    removal.remove(ObjectKind::pool, inner.id);
    commit(std::move(removal));
    EXPECT_EQ(place("/pool/inner/a.qcow2"), "fast inner/a.qcow2");
}

TEST_F(CatalogTest, HasNoPlaceOutsideItsPools) {
    for (const char* path : {"/elsewhere/a", "/pool", "/pools/a", "relative", "", "/"})
        EXPECT_FALSE(catalog_->place(path).has_value()) << path;
}

TEST_F(CatalogTest, FindsAVolumeWhereItIsNow) {
    sample_.active.file = "moved.qcow2";
    put(sample_.active);
    EXPECT_EQ(catalog_->find_volume("/pool/deeper/top.qcow2"), nullptr);
    ASSERT_NE(catalog_->find_volume("/pool/moved.qcow2"), nullptr);
    EXPECT_EQ(catalog_->find_volume("/pool/moved.qcow2")->id, sample_.active.id);
    Changes removal;
    sample_.disk.active = sample_.base.id;
    removal.put(sample_.disk).remove(ObjectKind::volume, sample_.active.id);
    commit(std::move(removal));
    EXPECT_EQ(catalog_->find_volume("/pool/moved.qcow2"), nullptr);
}

TEST_F(CatalogTest, FollowsAChainByTheHeaders) {
    catalog_->set_facts(sample_.base.id, facts_over(""));
    catalog_->set_facts(sample_.active.id, facts_over("/pool/base.raw"));
    const VolumeRecord top = add_volume("top2.qcow2", "/pool/deeper/top.qcow2");
    const VolumeRecord side = add_volume("side.qcow2", "/pool/base.raw");
    EXPECT_THAT(catalog_->chain(top.id), ElementsAre(top.id, sample_.active.id, sample_.base.id));
    EXPECT_THAT(catalog_->chain(sample_.base.id), ElementsAre(sample_.base.id));
    EXPECT_EQ(catalog_->backing(top.id), sample_.active.id);
    EXPECT_TRUE(catalog_->backing(sample_.base.id).nil());
    EXPECT_THAT(catalog_->children(sample_.base.id), UnorderedElementsAre(sample_.active.id, side.id));
    EXPECT_THAT(catalog_->children(top.id), IsEmpty());
}

TEST_F(CatalogTest, EndsAChainAtAFileThatIsNoVolume) {
    catalog_->set_facts(sample_.active.id, facts_over("/elsewhere/base"));
    EXPECT_THAT(catalog_->chain(sample_.active.id), ElementsAre(sample_.active.id));
    EXPECT_TRUE(catalog_->backing(sample_.active.id).nil());
}

TEST_F(CatalogTest, EndsAChainThatComesBackToItself) {
    catalog_->set_facts(sample_.base.id, facts_over("/pool/deeper/top.qcow2"));
    catalog_->set_facts(sample_.active.id, facts_over("/pool/base.raw"));
    EXPECT_THAT(catalog_->chain(sample_.active.id), ElementsAre(sample_.active.id, sample_.base.id));
    catalog_->set_facts(sample_.base.id, facts_over("/pool/base.raw"));
    EXPECT_THAT(catalog_->chain(sample_.base.id), ElementsAre(sample_.base.id));
}

TEST_F(CatalogTest, GoesByTheLatestLook) {
    EXPECT_EQ(catalog_->facts(sample_.active.id).state, VolumeState::missing) << "nobody has looked yet";
    catalog_->set_facts(sample_.active.id, facts_over("/pool/base.raw"));
    EXPECT_EQ(told_, std::vector<Told>(1, {{ObjectKind::volume, sample_.active.id}, ChangeKind::changed}));
    EXPECT_EQ(catalog_->facts(sample_.active.id).size, mib);
    EXPECT_THAT(catalog_->children(sample_.base.id), ElementsAre(sample_.active.id));
    catalog_->set_facts(sample_.active.id, facts_over(""));
    EXPECT_THAT(catalog_->children(sample_.base.id), IsEmpty());
}

TEST_F(CatalogTest, ForgetsTheFactsOfARemovedVolume) {
    const VolumeRecord side = add_volume("side.qcow2", "/pool/base.raw");
    Changes removal;
    removal.remove(ObjectKind::volume, side.id);
    commit(std::move(removal));
    EXPECT_THAT(catalog_->children(sample_.base.id), IsEmpty());
    EXPECT_EQ(catalog_->facts(side.id).state, VolumeState::missing);
}

TEST_F(CatalogTest, ShowsNoChildThatIsNotRecorded) {
    // Facts may be known before the record is: between them the volume does not exist.
    const VolumeRecord coming = new_volume(sample_.disk.id, sample_.pool.id, "coming.qcow2");
    catalog_->set_facts(coming.id, facts_over("/pool/base.raw"));
    EXPECT_THAT(told_, IsEmpty());
    EXPECT_THAT(catalog_->children(sample_.base.id), IsEmpty());
    put(coming);
    EXPECT_THAT(catalog_->children(sample_.base.id), ElementsAre(coming.id));
    EXPECT_EQ(catalog_->facts(coming.id).state, VolumeState::ok);
}

TEST_F(CatalogTest, RemembersWhoIsFrozenAndWhoseManifestIsStale) {
    const Timestamp since = now();
    Changes changes;
    changes.put(Frozen{sample_.vm.id, since}).put(ManifestStale{sample_.vm.id, true});
    commit(std::move(changes));
    for (int round = 0; round < 2; ++round) {
        EXPECT_EQ(catalog_->frozen_since(sample_.vm.id), since);
        EXPECT_THAT(catalog_->stale_manifests(), ElementsAre(sample_.vm.id));
        catalog_.reopen();
    }
    Changes over;
    over.put(Frozen{sample_.vm.id, std::nullopt}).put(ManifestStale{sample_.vm.id, false});
    commit(std::move(over));
    catalog_.reopen();
    EXPECT_FALSE(catalog_->frozen_since(sample_.vm.id).has_value());
    EXPECT_THAT(catalog_->stale_manifests(), IsEmpty());
}

}  // namespace
}  // namespace volchain::storage::catalog_test
