// SPDX-License-Identifier: MIT
//
// Catalog: all objects in memory, and the one way to change them. commit() writes to the store first; when
// that is on disk the change becomes visible here and the watchers are told. The Engine owns it.
//
// Who changes a record holds its lock (locks.h): a record is read, changed and committed under the lock of
// its VM or disk, so that nobody's change is lost. Job records belong to their Job.
//
// Beside each volume's record stand its facts: what the last look at its file said. They are not stored.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "storage/images/image.h"
#include "storage/records/store.h"

namespace volchain::storage {

enum class ChangeKind { added, changed, removed };

class Catalog {
  public:
    using Watcher = std::function<void(ObjectId, ChangeKind)>;

    explicit Catalog(const std::string& database_path);

    /// Called after each committed change, in the event loop. One at most.
    void watch(Watcher watcher) { watcher_ = std::move(watcher); }

    /// Writes the changes, then makes them visible in their order: a new pool comes before its volumes, and
    /// goes after them.
    async::Task<> commit(Changes changes, Durability durability);

    // The records. get_* throw NotFound ("no disk with id ..."), find_* return null.
    [[nodiscard]] const PoolRecord& pool(const Uuid& id) const { return get(pools_, id, "pool"); }
    [[nodiscard]] const DiskRecord& disk(const Uuid& id) const { return get(disks_, id, "disk"); }
    [[nodiscard]] const VolumeRecord& volume(const Uuid& id) const { return get(volumes_, id, "volume"); }
    [[nodiscard]] const VmRecord& vm(const Uuid& id) const { return get(vms_, id, "VM"); }
    [[nodiscard]] const SnapshotRecord& snapshot(const Uuid& id) const {
        return get(snapshots_, id, "snapshot");
    }
    [[nodiscard]] const ExportRecord& exported(const Uuid& id) const { return get(exports_, id, "export"); }
    [[nodiscard]] const BackupRecord& backup(const Uuid& id) const { return get(backups_, id, "backup"); }
    [[nodiscard]] const ScheduleRecord& schedule(const Uuid& id) const {
        return get(schedules_, id, "schedule");
    }
    [[nodiscard]] const JobRecord& job(const Uuid& id) const { return get(jobs_, id, "job"); }

    // All of a kind, ordered by id.
    [[nodiscard]] const std::map<Uuid, PoolRecord>& pools() const noexcept { return pools_; }
    [[nodiscard]] const std::map<Uuid, DiskRecord>& disks() const noexcept { return disks_; }
    [[nodiscard]] const std::map<Uuid, VolumeRecord>& volumes() const noexcept { return volumes_; }
    [[nodiscard]] const std::map<Uuid, VmRecord>& vms() const noexcept { return vms_; }
    [[nodiscard]] const std::map<Uuid, SnapshotRecord>& snapshots() const noexcept { return snapshots_; }
    [[nodiscard]] const std::map<Uuid, ExportRecord>& exports() const noexcept { return exports_; }
    [[nodiscard]] const std::map<Uuid, BackupRecord>& backups() const noexcept { return backups_; }
    [[nodiscard]] const std::map<Uuid, ScheduleRecord>& schedules() const noexcept { return schedules_; }
    [[nodiscard]] const std::map<Uuid, JobRecord>& jobs() const noexcept { return jobs_; }

    [[nodiscard]] bool has(const ObjectId& object) const;
    [[nodiscard]] std::vector<Uuid> ids(ObjectKind kind) const;
    /// "disk 'root' (01234567-...)": how messages name an object.
    [[nodiscard]] std::string describe(const ObjectId& object) const;

    /// Keeps a name for a disk that is being made, until it is recorded or given up. Throws AlreadyExists where a
    /// disk has it, or somebody else keeps it.
    class [[nodiscard]] DiskNameClaim {
      public:
        DiskNameClaim(Catalog& catalog, std::string name);
        DiskNameClaim(const DiskNameClaim&) = delete;
        DiskNameClaim& operator=(const DiskNameClaim&) = delete;
        ~DiskNameClaim() { catalog_.claimed_disk_names_.erase(name_); }

      private:
        Catalog& catalog_;
        std::string name_;
    };
    /// The same for a VM.
    class [[nodiscard]] VmNameClaim {
      public:
        VmNameClaim(Catalog& catalog, std::string name);
        VmNameClaim(const VmNameClaim&) = delete;
        VmNameClaim& operator=(const VmNameClaim&) = delete;
        ~VmNameClaim() { catalog_.claimed_vm_names_.erase(name_); }

      private:
        Catalog& catalog_;
        std::string name_;
    };
    /// AlreadyExists where a VM, but for `but`, has this name, or somebody keeps it for one.
    void check_vm_name_free(const std::string& name, const Uuid& but) const;
    /// Those that are kept, also for disks that are being restored.
    [[nodiscard]] std::set<std::string> claimed_disk_names() const;

    /// Holds a volume, and all that it stands on, for an export that is being recorded: to those who ask what may be
    /// changed, it is as if the record were there.
    class [[nodiscard]] ExportClaim {
      public:
        ExportClaim(Catalog& catalog, const ExportRecord& record) : catalog_(catalog), id_(record.id) {
            catalog_.claimed_exports_.emplace(record.id, record);
        }
        ExportClaim(const ExportClaim&) = delete;
        ExportClaim& operator=(const ExportClaim&) = delete;
        ~ExportClaim() { catalog_.claimed_exports_.erase(id_); }

      private:
        Catalog& catalog_;
        Uuid id_;
    };
    [[nodiscard]] const std::map<Uuid, ExportRecord>& claimed_exports() const noexcept {
        return claimed_exports_;
    }

    // Relations.
    [[nodiscard]] std::vector<Uuid> disks_of_vm(const Uuid& vm) const;
    /// The backup that holds a disk as it is; null where none does. One of a snapshot holds volumes only.
    [[nodiscard]] const BackupRecord* backup_of_disk(const Uuid& disk) const;
    /// The disks that are being restored.
    [[nodiscard]] std::vector<RestoredDisk> restored_disks() const;
    [[nodiscard]] std::vector<Uuid> schedules_of_vm(const Uuid& vm) const;
    [[nodiscard]] std::vector<Uuid> snapshots_of_vm(const Uuid& vm) const;
    [[nodiscard]] std::vector<Uuid> volumes_of_disk(const Uuid& disk) const;
    [[nodiscard]] std::string path(const VolumeRecord& volume) const;
    /// The volume whose file this is; `path` is absolute and without links.
    [[nodiscard]] const VolumeRecord* find_volume(const std::string& path) const;
    /// The pool in whose directory (or below) `path` lies, and the rest of the path.
    struct Place {
        Uuid pool;
        std::string file;
    };
    [[nodiscard]] std::optional<Place> place(const std::string& path) const;

    // Facts and what follows from them.
    void set_facts(const Uuid& volume, VolumeFacts facts);
    [[nodiscard]] const VolumeFacts& facts(const Uuid& volume) const;
    /// The volume that this one's header names as its backing file; nil where it has none, or it is no volume
    /// of ours.
    [[nodiscard]] Uuid backing(const Uuid& volume) const;
    [[nodiscard]] std::vector<Uuid> children(const Uuid& volume) const;
    /// This volume and all below it, top first. Ends at the bottom, at a file that is no volume, or at a
    /// loop.
    [[nodiscard]] std::vector<Uuid> chain(const Uuid& top) const;

    [[nodiscard]] std::optional<Timestamp> frozen_since(const Uuid& vm) const;
    [[nodiscard]] std::vector<Uuid> stale_manifests() const;
    /// By path.
    [[nodiscard]] const std::map<std::string, UnwantedFile>& unwanted_files() const noexcept {
        return unwanted_files_;
    }

  private:
    template <typename T>
    static const T& get(const std::map<Uuid, T>& all, const Uuid& id, std::string_view what) {
        const auto found = all.find(id);
        if (found == all.end()) throw Error(ErrorCode::not_found, "there is no {} {}", what, id.str());
        return found->second;
    }

    template <typename T>
    void put(std::map<Uuid, T>& all, ObjectKind kind, const T& record);
    void apply(const PoolRecord& record) { put(pools_, ObjectKind::pool, record); }
    void apply(const DiskRecord& record) { put(disks_, ObjectKind::disk, record); }
    void apply(const VolumeRecord& record);
    void apply(const VmRecord& record) { put(vms_, ObjectKind::vm, record); }
    void apply(const SnapshotRecord& record) { put(snapshots_, ObjectKind::snapshot, record); }
    void apply(const ExportRecord& record) { put(exports_, ObjectKind::exported, record); }
    void apply(const BackupRecord& record) { put(backups_, ObjectKind::backup, record); }
    void apply(const ScheduleRecord& record) { put(schedules_, ObjectKind::schedule, record); }
    void apply(const JobRecord& record) { put(jobs_, ObjectKind::job, record); }
    void apply(const Frozen& frozen);
    void apply(const ManifestStale& manifest);
    void apply(const UnwantedFile& file);
    void apply(const Removal& removal);
    void forget_facts(const Uuid& volume);
    void tell(ObjectKind kind, const Uuid& id, ChangeKind change) const;

    Store store_;
    Watcher watcher_;
    std::map<Uuid, PoolRecord> pools_;
    std::map<Uuid, DiskRecord> disks_;
    std::map<Uuid, VolumeRecord> volumes_;
    std::map<Uuid, VmRecord> vms_;
    std::map<Uuid, SnapshotRecord> snapshots_;
    std::map<Uuid, ExportRecord> exports_;
    std::map<Uuid, BackupRecord> backups_;
    std::map<Uuid, ScheduleRecord> schedules_;
    std::map<Uuid, JobRecord> jobs_;
    std::map<Uuid, Timestamp> frozen_;
    std::set<Uuid> stale_manifests_;
    std::map<std::string, UnwantedFile> unwanted_files_;
    std::set<std::string> claimed_disk_names_;
    std::set<std::string> claimed_vm_names_;
    std::map<Uuid, ExportRecord> claimed_exports_;

    std::unordered_map<Uuid, VolumeFacts> facts_;
    std::unordered_map<std::string, std::set<Uuid>> children_by_backing_path_;  // as the facts say
    std::unordered_map<std::string, Uuid> volume_by_path_;
};

}  // namespace volchain::storage
