// SPDX-License-Identifier: MIT
//
// LeftBranch: the branch of a VM's snapshots and volumes that it leaves when it goes to another one, by the commit of
// a preview, by a revert, or by the undoing of a preview. It finds out what nobody needs any more, and makes that go;
// or it keeps all of it, and gives what no snapshot names a snapshot of its own.
//
// What stays: the snapshots that the VM shows from now on, those that its other disks stand on, and their ancestors;
// snapshots that have a child which stays; volumes that belong to a snapshot which stays, are a disk's active or
// former one, or are the backing file of a volume that stays. The last is true of files that are no volumes of ours
// only as far as QEMU's image locks show it.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "storage/images/doomed_files.h"
#include "storage/images/volume_lock.h"

namespace volchain::storage {

/// Disk -> the volume that it was on.
using Leaves = std::map<Uuid, Uuid>;

/// The snapshots that go: from the VM's current one upwards, up to the first that stays.
[[nodiscard]] std::set<Uuid> abandoned_snapshots(const Catalog& catalog, const Uuid& vm, const Leaves& leaves,
                                                 const std::set<Uuid>& shown);
/// The volumes that go when the leaves and these snapshots do, those on top first; a leaf that somebody stands on is
/// not among them.
[[nodiscard]] std::vector<Uuid> abandoned_volumes(const Catalog& catalog, const Leaves& leaves,
                                                  const std::set<Uuid>& snapshots);

class LeftBranch {
  public:
    LeftBranch(Engine& engine, const Uuid& vm, Leaves leaves)
        : engine_(engine), vm_(vm), leaves_(std::move(leaves)) {}

    // One of these, once. They read the headers of the VM's volumes again and take QEMU's locks on what goes
    // (InUse where a process has it open, Busy where an export shows it), but for the leaves where the caller has those; unlock() gives them back.
    /// Gives the branch up; `shown`: the snapshots that the VM's disks stand on from now on.
    async::Task<> give_up(std::set<Uuid> shown, bool has_leaves_locked);
    /// Keeps the branch. Where a leaf holds something that no snapshot has, the leaves become a snapshot, called
    /// `name` and with the configuration of `before` and these copies of its variable stores; else only the leaves go, which
    /// are empty, and the copies.
    async::Task<> keep(std::string name, VmRecord before, std::vector<SnapshotFile> nvram,
                       bool has_leaves_locked);
    /// Only the leaves go, and what nobody needs without them: InUse where somebody stands on one.
    async::Task<> drop_leaves();
    /// Files that are no volumes, and are of no use to anybody, go as well.
    void drop(std::vector<SnapshotFile> files) { dropped_ = std::move(files); }

    /// What goes and what comes, but for the records of the VM and its disks.
    void put(Changes& changes) const;
    /// The files of what goes, for after the commit.
    [[nodiscard]] DoomedFiles files() const;
    /// "removed": the names of the snapshots that went, the oldest first; "snapshot": the one that was made.
    [[nodiscard]] Json result() const;
    void unlock() noexcept { locks_.clear(); }

  private:
    async::Task<> look_again();
    async::Task<> lock_doomed(bool has_leaves_locked);
    async::Task<bool> unnamed_state();
    async::Task<bool> holds_unnamed_state(Uuid leaf);
    [[nodiscard]] std::vector<VolumeRecord> leftovers() const;

    Engine& engine_;
    Uuid vm_;
    Leaves leaves_;
    std::set<Uuid> snapshots_;   ///< that go
    std::vector<Uuid> volumes_;  ///< that go
    std::vector<SnapshotFile> dropped_;
    std::optional<SnapshotRecord> made_;
    std::vector<qmp::ImageLock> locks_;
};

/// The last step of an operation that has left a branch: the files go, and the job succeeds. A file that cannot be
/// removed does not undo what is done: the result says so in "not-removed".
async::Task<> finish_leaving(Engine& engine, JobPtr job, DoomedFiles files, Json result);

}  // namespace volchain::storage
