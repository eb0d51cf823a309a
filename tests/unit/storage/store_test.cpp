// SPDX-License-Identifier: MIT
#include "storage/records/store.h"

#include <filesystem>

#include "support.h"

namespace volchain::storage::store_test {
namespace {

void expect_same(const PoolRecord& a, const PoolRecord& b) {
    EXPECT_EQ(a.id, b.id);
    EXPECT_EQ(a.name, b.name);
    EXPECT_EQ(a.path, b.path);
}
void expect_same(const VmRecord& a, const VmRecord& b) {
    EXPECT_EQ(a.id, b.id);
    EXPECT_EQ(a.name, b.name);
    EXPECT_EQ(a.qmp_socket, b.qmp_socket);
    EXPECT_EQ(a.agent_socket, b.agent_socket);
    EXPECT_EQ(a.config, b.config);
    EXPECT_EQ(a.config_type, b.config_type);
    EXPECT_EQ(a.current_snapshot, b.current_snapshot);
    EXPECT_EQ(a.adopt, b.adopt);
    EXPECT_EQ(a.foreign_manager, b.foreign_manager);
    EXPECT_EQ(a.nvram, b.nvram);
    EXPECT_EQ(a.resumes_from, b.resumes_from);
    EXPECT_EQ(a.preview, b.preview);
}
void expect_same(const DiskRecord& a, const DiskRecord& b) {
    EXPECT_EQ(a.id, b.id);
    EXPECT_EQ(a.name, b.name);
    EXPECT_EQ(a.vm, b.vm);
    EXPECT_EQ(a.target, b.target);
    EXPECT_EQ(a.active, b.active);
    EXPECT_EQ(a.shareable, b.shareable);
    EXPECT_EQ(a.node_options, b.node_options);
}
void expect_same(const VolumeRecord& a, const VolumeRecord& b) {
    EXPECT_EQ(a.id, b.id);
    EXPECT_EQ(a.disk, b.disk);
    EXPECT_EQ(a.pool, b.pool);
    EXPECT_EQ(a.file, b.file);
    EXPECT_EQ(word(a.format), word(b.format));
    EXPECT_EQ(a.created, b.created);
}
void expect_same(const SnapshotRecord& a, const SnapshotRecord& b) {
    EXPECT_EQ(a.id, b.id);
    EXPECT_EQ(a.vm, b.vm);
    EXPECT_EQ(a.name, b.name);
    EXPECT_EQ(a.description, b.description);
    EXPECT_EQ(a.parent, b.parent);
    EXPECT_EQ(a.created, b.created);
    EXPECT_EQ(word(a.vm_state), word(b.vm_state));
    EXPECT_EQ(word(a.consistency), word(b.consistency));
    EXPECT_EQ(word(a.status), word(b.status));
    EXPECT_EQ(a.origin, b.origin);
    EXPECT_EQ(a.disks, b.disks);
    EXPECT_EQ(a.excluded, b.excluded);
    EXPECT_EQ(a.config, b.config);
    EXPECT_EQ(a.config_type, b.config_type);
    EXPECT_EQ(a.files, b.files);
}
void expect_same(const JobRecord& a, const JobRecord& b) {
    EXPECT_EQ(a.id, b.id);
    EXPECT_EQ(a.kind, b.kind);
    EXPECT_EQ(a.subject, b.subject);
    EXPECT_EQ(word(a.state), word(b.state));
    EXPECT_EQ(a.step, b.step);
    EXPECT_EQ(a.started, b.started);
    EXPECT_EQ(a.finished, b.finished);
    EXPECT_EQ(a.owner_uid, b.owner_uid);
    EXPECT_EQ(a.done_bytes, b.done_bytes);
    EXPECT_EQ(a.total_bytes, b.total_bytes);
    ASSERT_EQ(a.error.has_value(), b.error.has_value());
    if (a.error) {
        EXPECT_EQ(name(a.error->code()), name(b.error->code()));
        EXPECT_STREQ(a.error->what(), b.error->what());
    }
    EXPECT_EQ(a.result, b.result);
    EXPECT_EQ(a.plan, b.plan);
}

template <typename T>
const T& by_id(const std::vector<T>& records, const Uuid& id) {
    const auto found =
        std::find_if(records.begin(), records.end(), [&](const T& record) { return record.id == id; });
    if (found == records.end()) throw Error(ErrorCode::internal, "{} was not read back", id.str());
    return *found;
}

class StoreTest : public testing::Test {
  protected:
    void commit(Changes changes, Durability durability = Durability::process) {
        async::run(store_->commit(std::move(changes), durability));
    }
    Records reopened() {
        store_.reset();
        store_ = std::make_unique<Store>(path());
        return store_->load();
    }
    [[nodiscard]] std::string path() const { return directory_ / "volchain.db"; }

    /// Works on the closed database as nothing of ours does.
    void with_database(const std::string& sql) {
        store_.reset();
        Database(path()).execute(sql);
        store_ = std::make_unique<Store>(path());
    }

    TemporaryDirectory directory_;
    std::unique_ptr<Store> store_ = std::make_unique<Store>(path());
    Sample sample_;
};

TEST_F(StoreTest, BeginsEmpty) {
    const Records records = store_->load();
    EXPECT_TRUE(records.pools.empty() && records.disks.empty() && records.volumes.empty() &&
                records.vms.empty() && records.snapshots.empty() && records.jobs.empty() &&
                records.frozen.empty() && records.stale_manifests.empty());
}

TEST_F(StoreTest, ReadsBackEveryRecord) {
    Changes changes = sample_.changes();
    const Timestamp since = from_usec(1'700'000'000'654'321);
    changes.put(Frozen{sample_.vm.id, since}).put(ManifestStale{sample_.vm.id, true});
    commit(std::move(changes), Durability::power);
    const Records records = reopened();
    expect_same(by_id(records.pools, sample_.pool.id), sample_.pool);
    expect_same(by_id(records.vms, sample_.vm.id), sample_.vm);
    expect_same(by_id(records.disks, sample_.disk.id), sample_.disk);
    expect_same(by_id(records.volumes, sample_.base.id), sample_.base);
    expect_same(by_id(records.volumes, sample_.active.id), sample_.active);
    expect_same(by_id(records.snapshots, sample_.snapshot.id), sample_.snapshot);
    expect_same(by_id(records.jobs, sample_.job.id), sample_.job);
    EXPECT_EQ(records.volumes.size(), 2u);
    ASSERT_EQ(records.frozen.size(), 1u);
    EXPECT_EQ(records.frozen.front().vm, sample_.vm.id);
    EXPECT_EQ(records.frozen.front().since, since);
    EXPECT_THAT(records.stale_manifests, ElementsAre(sample_.vm.id));
}

TEST_F(StoreTest, ReadsBackRecordsOfDefaults) {
    // No VM, no parent, no error: NULLs.
    const PoolRecord pool{Uuid::make(), "p", "/p"};
    const VolumeRecord volume = new_volume(Uuid::make(), pool.id, "a");
    const DiskRecord disk = new_disk(volume, "d");
    VmRecord vm;
    vm.id = Uuid::make();
    SnapshotRecord snapshot;
    snapshot.id = Uuid::make();
    snapshot.vm = vm.id;
    JobRecord job;
    job.id = Uuid::make();
    Changes changes;
    changes.put(pool).put(volume).put(disk).put(vm).put(snapshot).put(job);
    commit(std::move(changes));
    const Records records = reopened();
    expect_same(by_id(records.volumes, volume.id), volume);
    expect_same(by_id(records.disks, disk.id), disk);
    expect_same(by_id(records.vms, vm.id), vm);
    expect_same(by_id(records.snapshots, snapshot.id), snapshot);
    expect_same(by_id(records.jobs, job.id), job);
}

TEST_F(StoreTest, ReadsBackExports) {
    ExportRecord plain;
    plain.id = Uuid::make();
    plain.volume = Uuid::make();
    plain.disk = Uuid::make();
    ExportRecord full = plain;
    full.id = Uuid::make();
    full.kind = ExportKind::device;
    full.state = ExportState::lost;
    full.snapshot = Uuid::make();
    full.writable = true;
    full.owner_uid = 4'000'000'000;
    full.allowed_uid = 0;
    full.caller = "0123/:1.7";
    full.expires = from_usec(1'700'000'000'123'456);
    full.address = "[::1]:10809";
    full.bitmap = "qemu:dirty-bitmap:x";
    full.server = {4'000'000, std::uint64_t{1} << 40};
    full.mounter = {5, 6};
    full.appliance = Uuid::make();
    full.serial = "backup";
    full.backup = Uuid::make();
    Changes changes;
    changes.put(plain).put(full);
    commit(std::move(changes));
    EXPECT_THAT(reopened().exports, UnorderedElementsAre(plain, full));

    plain.state = ExportState::ready;
    plain.expires = full.expires;
    plain.address = "192.0.2.1:1";
    plain.bitmap = "qemu:dirty-bitmap:y";
    plain.server = {7, 8};
    plain.mounter = {9, 10};
    Changes later;
    later.put(plain).remove(ObjectKind::exported, full.id);
    commit(std::move(later));
    EXPECT_THAT(reopened().exports, ElementsAre(plain));
}

TEST_F(StoreTest, ReadsBackBackups) {
    BackupRecord plain;
    plain.id = Uuid::make();
    plain.vm = Uuid::make();
    BackupRecord full = plain;
    full.id = Uuid::make();
    full.kind = BackupKind::differential;
    full.state = BackupState::failed;
    full.consistency = Consistency::filesystem;
    full.checkpoint = "vc.1700000000000000.monday";
    full.since = "vc.1600000000000000.sunday";
    full.created = from_usec(1'700'000'000'123'456);
    full.owner_uid = 4'000'000'000;
    full.allowed_uid = 0;
    full.caller = "0123/:1.7";
    full.qemu = {4'000'000, std::uint64_t{1} << 40};
    full.problem = "no \"room\"";
    BackupDisk disk;
    disk.disk = Uuid::make();
    disk.volume = Uuid::make();
    disk.layer = "#block123";
    disk.root = "filter";
    disk.device = "/machine/peripheral/disk0/virtio-backend";
    disk.stamp = "1:2:3:4.000000005";
    disk.tracked = disk.incremental = true;
    disk.exported = Uuid::make();
    full.disks.push_back(disk);
    disk.incremental = false;
    disk.why = "'x' has no such bitmap";
    full.disks.push_back(disk);
    full.source = BackupSource::snapshot;
    full.snapshot = Uuid::make();
    full.moment = from_usec(1'700'000'000'654'321);
    full.config = "<domain name='\xc3\xa9'/>";
    full.config_type = "application/xml";
    Changes changes;
    changes.put(plain).put(full);
    commit(std::move(changes));
    EXPECT_THAT(reopened().backups, UnorderedElementsAre(plain, full));

    plain.state = BackupState::ready;
    plain.consistency = Consistency::application;
    plain.problem = "y";
    plain.moment = full.moment;
    Changes later;
    later.put(plain).remove(ObjectKind::backup, full.id);
    commit(std::move(later));
    EXPECT_THAT(reopened().backups, ElementsAre(plain));
}

TEST_F(StoreTest, ReadsBackRestores) {
    BackupRecord record;
    record.id = Uuid::make();
    record.restored.emplace();
    record.restored->disk = Uuid::make();
    record.restored->volume = Uuid::make();
    record.restored->name = "root \"again\"";
    record.restored->pool = Uuid::make();
    record.restored->file = "root/x.raw";
    record.restored->format = VolumeFormat::raw;
    record.restored->size = std::uint64_t{1} << 62;
    record.restored->sparse = false;
    Changes changes;
    changes.put(record);
    commit(std::move(changes));
    EXPECT_THAT(reopened().backups, ElementsAre(record));
}

TEST_F(StoreTest, ReadsBackAPreview) {
    PreviewRecord& preview = sample_.vm.preview.emplace();
    preview.snapshot = sample_.snapshot.id;
    commit(sample_.changes());
    expect_same(by_id(reopened().vms, sample_.vm.id), sample_.vm);
    preview.with_config = true;
    preview.former_config = std::string("\0former", 7);
    preview.former_config_type = "text/plain";
    preview.former_resumes_from = Uuid::make();
    preview.former_nvram = {
        {SnapshotFileKind::nvram, sample_.pool.id, "kept.nvram0", 131'072, "/var/lib/firmware/web.fd"}};
    Changes changes;
    changes.put(sample_.vm);
    commit(std::move(changes));
    expect_same(by_id(reopened().vms, sample_.vm.id), sample_.vm);
}

TEST_F(StoreTest, ReadsBackWhatNoTextIs) {
    sample_.vm.config = std::string("\0\xff\xfe binary", 10);
    sample_.snapshot.config = sample_.vm.config;
    sample_.base.file = "a 'quoted' \"name\"; -- é";
    commit(sample_.changes());
    const Records records = reopened();
    expect_same(by_id(records.vms, sample_.vm.id), sample_.vm);
    expect_same(by_id(records.snapshots, sample_.snapshot.id), sample_.snapshot);
    expect_same(by_id(records.volumes, sample_.base.id), sample_.base);
}

TEST_F(StoreTest, ReadsBackEveryWord) {
    Changes changes = sample_.changes();
    std::vector<JobRecord> jobs;
    for (const auto& [state, text] : enum_names(JobState{}))
        for (const auto& [kind, kind_text] : enum_names(ObjectKind{})) {
            JobRecord job = sample_.job;
            job.id = Uuid::make();
            job.state = state;
            job.subject.kind = kind;
            jobs.push_back(job);
            changes.put(job);
        }
    std::vector<SnapshotRecord> snapshots;
    for (const auto& [state, text] : enum_names(VmState{}))
        for (const auto& [consistency, consistency_text] : enum_names(Consistency{}))
            for (const auto& [status, status_text] : enum_names(SnapshotStatus{})) {
                SnapshotRecord snapshot = sample_.snapshot;
                snapshot.id = Uuid::make();
                snapshot.name = fmt::format("{} {} {}", text, consistency_text, status_text);
                snapshot.parent = sample_.snapshot.id;
                snapshot.vm_state = state;
                snapshot.consistency = consistency;
                snapshot.status = status;
                snapshots.push_back(snapshot);
                changes.put(snapshot);
            }
    commit(std::move(changes));
    const Records records = reopened();
    for (const JobRecord& job : jobs) expect_same(by_id(records.jobs, job.id), job);
    for (const SnapshotRecord& snapshot : snapshots)
        expect_same(by_id(records.snapshots, snapshot.id), snapshot);
}

TEST_F(StoreTest, ReadsBackEveryErrorCode) {
    Changes changes;
    std::vector<JobRecord> jobs;
    for (int code = 0; code <= static_cast<int>(ErrorCode::internal); ++code) {
        JobRecord job = sample_.job;
        job.id = Uuid::make();
        job.error.emplace(static_cast<ErrorCode>(code), std::string("because"));
        jobs.push_back(job);
        changes.put(job);
    }
    commit(std::move(changes));
    const Records records = reopened();
    for (const JobRecord& job : jobs) expect_same(by_id(records.jobs, job.id), job);
}

TEST_F(StoreTest, ReplacesWhatIsThere) {
    commit(sample_.changes());
    sample_.pool.name = "slow";
    sample_.vm.name = "mail";
    sample_.vm.current_snapshot = {};
    sample_.vm.adopt = true;
    sample_.disk.vm = {};
    sample_.disk.active = sample_.base.id;
    sample_.disk.shareable = false;
    sample_.active.file = "elsewhere.qcow2";
    sample_.snapshot.vm = {};
    sample_.snapshot.status = SnapshotStatus::ok;
    sample_.snapshot.disks = {{sample_.disk.id, sample_.active.id}, {Uuid::make(), Uuid::make()}};
    std::sort(sample_.snapshot.disks.begin(), sample_.snapshot.disks.end(),
              [](const auto& a, const auto& b) { return a.disk < b.disk; });
    sample_.snapshot.excluded.clear();
    sample_.job.state = JobState::succeeded;
    sample_.job.error.reset();
    commit(sample_.changes());
    const Records records = reopened();
    EXPECT_EQ(records.volumes.size(), 2u);
    expect_same(by_id(records.pools, sample_.pool.id), sample_.pool);
    expect_same(by_id(records.vms, sample_.vm.id), sample_.vm);
    expect_same(by_id(records.disks, sample_.disk.id), sample_.disk);
    expect_same(by_id(records.volumes, sample_.active.id), sample_.active);
    expect_same(by_id(records.snapshots, sample_.snapshot.id), sample_.snapshot);
    expect_same(by_id(records.jobs, sample_.job.id), sample_.job);
}

TEST_F(StoreTest, KeepsEveryReasonForLeavingSomethingOut) {
    // Devices that are no disks of ours have no id.
    sample_.snapshot.excluded = {{Uuid{}, "device 'dev2': no file of this host"},
                                 {Uuid{}, "device 'dev1': format 'vmdk' is not supported"},
                                 {Uuid::make(), "no room"}};
    commit(sample_.changes());
    const Records records = reopened();
    expect_same(by_id(records.snapshots, sample_.snapshot.id), sample_.snapshot);
}

TEST_F(StoreTest, ForgetsWhatIsRemoved) {
    Changes changes = sample_.changes();
    changes.put(Frozen{sample_.vm.id, now()}).put(ManifestStale{sample_.vm.id, true});
    commit(std::move(changes));
    Changes removals;
    removals.remove(ObjectKind::pool, sample_.pool.id)
        .remove(ObjectKind::disk, sample_.disk.id)
        .remove(ObjectKind::volume, sample_.base.id)
        .remove(ObjectKind::volume, sample_.active.id)
        .remove(ObjectKind::vm, sample_.vm.id)
        .remove(ObjectKind::snapshot, sample_.snapshot.id)
        .remove(ObjectKind::job, sample_.job.id)
        .put(Frozen{sample_.vm.id, std::nullopt})
        .put(ManifestStale{sample_.vm.id, false});
    commit(std::move(removals));
    const Records records = reopened();
    EXPECT_TRUE(records.pools.empty() && records.disks.empty() && records.volumes.empty() &&
                records.vms.empty() && records.snapshots.empty() && records.jobs.empty() &&
                records.frozen.empty() && records.stale_manifests.empty());
    store_.reset();
    Database database(path());
    for (const char* table : {"snapshot_disk", "snapshot_excluded"}) {
        auto query = database.prepare(fmt::format("SELECT count(*) FROM {}", table));
        ASSERT_TRUE(query.row());
        EXPECT_EQ(query.number(0), 0) << table;
    }
}

TEST_F(StoreTest, WritesAllOrNothing) {
    commit(sample_.changes());
    PoolRecord renamed = sample_.pool;
    renamed.name = "renamed";
    const PoolRecord twin{Uuid::make(), "twin", sample_.pool.path};
    Changes changes;
    changes.put(renamed).remove(ObjectKind::job, sample_.job.id).put(twin);
    expect_error(ErrorCode::already_exists, {"UNIQUE"}, [&] { commit(std::move(changes)); });
    // The connection is in no transaction any more.
    Changes more;
    JobRecord job = sample_.job;
    job.id = Uuid::make();
    more.put(job);
    commit(std::move(more));
    const Records records = reopened();
    EXPECT_EQ(by_id(records.pools, sample_.pool.id).name, "fast");
    EXPECT_EQ(records.pools.size(), 1u);
    EXPECT_EQ(records.jobs.size(), 2u);
}

TEST_F(StoreTest, LooksAtReferencesWhenAllIsWritten) {
    // The order within the changes does not matter, what is missing at the end does.
    Changes changes;
    changes.put(sample_.disk).put(sample_.active);
    expect_error(ErrorCode::already_exists, {"FOREIGN KEY"}, [&] { commit(std::move(changes)); });
    EXPECT_TRUE(reopened().disks.empty());
}

TEST_F(StoreTest, CommitsOutliveTheProcess) {
    commit(sample_.changes(), Durability::process);
    // What a SIGKILL leaves: the files as they are now, with the log beside the database.
    const TemporaryDirectory copy;
    for (const char* suffix : {"", "-wal"})
        std::filesystem::copy_file(path() + suffix, copy / (std::string("volchain.db") + suffix));
    Store after(copy / "volchain.db");
    const Records records = after.load();
    expect_same(by_id(records.snapshots, sample_.snapshot.id), sample_.snapshot);
    expect_same(by_id(records.jobs, sample_.job.id), sample_.job);
}

TEST_F(StoreTest, KeepsTheOrderOfCommits) {
    const auto race = [](Store& store, Sample sample) -> Task<> {
        async::TaskGroup writers(co_await async::asio::this_coro::executor);
        for (std::uint64_t done = 0; done < 50; ++done) {
            sample.job.done_bytes = done;
            Changes changes;
            changes.put(sample.job);
            writers.spawn(store.commit(std::move(changes), Durability::process), "a writer");
        }
        co_await writers.join(soon());
    };
    async::run(race(*store_, sample_));
    EXPECT_EQ(reopened().jobs.front().done_bytes, 49u);
}

TEST_F(StoreTest, NamesDamageInARecord) {
    commit(sample_.changes());
    const std::vector<std::pair<std::string, std::string>> damages{
        {"UPDATE volume SET format='vmdk'", "'vmdk' is not a volume format"},
        {"UPDATE volume SET format='raw'; UPDATE job SET state='lost'", "'lost' is not a job state"},
        {"UPDATE job SET state='failed', result='{'", "not JSON"},
        {"UPDATE job SET result='{}'; UPDATE snapshot SET vm_state='x'", "'x' is not a VM state"},
        {"UPDATE snapshot SET vm_state='paused'; INSERT INTO frozen VALUES ('me', 1)", "'me' is not a UUID"},
    };
    for (const auto& [sql, text] : damages) {
        with_database(sql);
        expect_error(ErrorCode::internal, {text}, [&] { (void)store_->load(); });
    }
}

}  // namespace
}  // namespace volchain::storage::store_test
