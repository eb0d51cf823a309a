// SPDX-License-Identifier: MIT
//
// Engine: the parts of volchain, put together: records, locks, jobs, VMs, pools. The operations
// (create_snapshot.h, import_disk.h, ...) are functions that work on it; the daemon calls them and shows what
// the Engine tells its observer. It knows nothing of D-Bus.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "async/mutex.h"
#include "async/task_group.h"
#include "async/workers.h"
#include "storage/backups/backups.h"
#include "storage/exports/exports.h"
#include "storage/jobs/holds.h"
#include "storage/jobs/jobs.h"
#include "storage/jobs/locks.h"
#include "storage/pools/pool.h"
#include "storage/process_keeper.h"
#include "storage/records/catalog.h"
#include "storage/schedules/scheduler.h"
#include "storage/vms/adoption.h"
#include "storage/vms/vm.h"

namespace volchain::storage {

/// Is told what changed, in the event loop; looks itself what it is now.
class EngineObserver {
  public:
    virtual void object_changed(ObjectId object, ChangeKind change) = 0;

  protected:
    ~EngineObserver() = default;
};

class Engine final : private VmOwner {
  public:
    /// Opens the state. `runtime_directory` is for sockets that last as long as the daemon.
    Engine(async::Executor executor, Settings settings, const std::string& state_directory,
           std::string runtime_directory);
    Engine(const Engine&) = delete;
    Engine& operator=(const Engine&) = delete;

    void observe(EngineObserver& observer) { observer_ = &observer; }
    /// For processes that go on when this one ends; before start(). Without one they are left to themselves.
    void keep_processes_with(ProcessKeeper& keeper) { keeper_ = &keeper; }

    /// Looks at all images (those of a pool that does not answer are waited for in the background), connects to all
    /// VMs, thaws those that were left frozen, carries on or undoes the
    /// operations that were left in the middle. What cannot be settled because a VM's QEMU does not answer
    /// goes on in the background, with the VM locked, and so does what copies; everything else is settled when this returns.
    async::Task<> start();
    /// Lets running operations come to their end for a while, thaws, closes all connections.
    async::Task<> stop();

    [[nodiscard]] const Settings& settings() const noexcept { return settings_; }
    [[nodiscard]] const async::Executor& executor() const noexcept { return executor_; }
    [[nodiscard]] const std::string& runtime_directory() const noexcept { return runtime_directory_; }
    [[nodiscard]] const std::string& state_directory() const noexcept { return state_directory_; }
    /// Null where there is none.
    [[nodiscard]] ProcessKeeper* process_keeper() const noexcept { return keeper_; }
    [[nodiscard]] Catalog& catalog() noexcept { return catalog_; }
    [[nodiscard]] const Catalog& catalog() const noexcept { return catalog_; }
    [[nodiscard]] Locks& locks() noexcept { return locks_; }
    [[nodiscard]] const Locks& locks() const noexcept { return locks_; }
    [[nodiscard]] Holds& holds() noexcept { return holds_; }
    [[nodiscard]] const Holds& holds() const noexcept { return holds_; }
    [[nodiscard]] Jobs& jobs() noexcept { return jobs_; }
    [[nodiscard]] const Jobs& jobs() const noexcept { return jobs_; }
    [[nodiscard]] Exports& exports() noexcept { return exports_; }
    [[nodiscard]] Backups& backups() noexcept { return backups_; }
    [[nodiscard]] Scheduler& schedules() noexcept { return schedules_; }
    [[nodiscard]] const Scheduler& schedules() const noexcept { return schedules_; }
    /// For blocking work on files.
    [[nodiscard]] async::Workers& files() noexcept { return files_; }
    /// For looking after the files of a pool: where it does not answer, nobody else waits for that.
    [[nodiscard]] async::Workers& files(const Uuid& pool);
    /// For reading a lot of the images of a pool, in pieces of a second or two: it keeps nobody waiting who only looks.
    [[nodiscard]] async::Workers& readers(const Uuid& pool);
    /// Starts a task that belongs to no job and no VM. At shutdown it is not started any more.
    void spawn(async::Task<> task, std::string what) noexcept;

    // --- VMs ---
    /// The VM as it is now. Throws NotFound. It is there as long as its record and its lock are.
    [[nodiscard]] Vm& vm(const Uuid& id);
    [[nodiscard]] const Vm& vm(const Uuid& id) const;
    /// Begins, and ends, to look after a VM: one that may be frozen is thawed.
    Vm& attend(const VmRecord& record);
    async::Task<> neglect(Uuid vm);
    /// The VM has other sockets now: the connections to the old ones are closed, then new ones made. The VM's lock
    /// is held by the caller.
    async::Task<> attend_anew(VmRecord record);
    /// Whether the VM is to be worked on in its QEMU, by a look now; false: it is down. Throws Unreachable where
    /// nobody can tell, Unsupported where another manager runs it that its record does not put up with, Busy as
    /// refuse_incoming().
    async::Task<bool> runs(Uuid vm);
    /// Busy where its QEMU waits for the memory that its guest is to go on from: its images are nobody's to work on yet.
    async::Task<> refuse_incoming(Uuid vm);
    /// The same as runs() before work on its disks is planned: what became of them behind our back is known then. Busy where
    /// somebody works on the VM.
    async::Task<bool> ready_to_work(Uuid vm);
    /// Holds the records against the disks of the running VM; the VM's lock is held by the caller.
    async::Task<> adopt_disks(Uuid vm);
    [[nodiscard]] std::vector<UnmanagedDevice> unmanaged(const Uuid& vm) const;

    /// The right to send thaws to a VM until one is answered; none where somebody has it.
    class [[nodiscard]] ThawTurn {
      public:
        ThawTurn(Engine& engine, const Uuid& vm) : engine_(&engine), vm_(vm) {}
        ThawTurn(ThawTurn&& other) noexcept
            : engine_(std::exchange(other.engine_, nullptr)), vm_(other.vm_) {}
        ThawTurn& operator=(ThawTurn&&) = delete;
        ~ThawTurn() {
            if (engine_ == nullptr) return;
            engine_->thawing_.erase(vm_);
            engine_->thaws_.notify();
        }

      private:
        Engine* engine_;
        Uuid vm_;
    };
    [[nodiscard]] std::optional<ThawTurn> begin_thaw(const Uuid& vm);
    /// Waits between one thaw and the next, at most until `end`.
    async::Task<> pause_thaw(async::Deadline end);
    /// Returns when nobody sends thaws to the VM (any more), and hurries those who do; Timeout at the deadline.
    async::Task<> wait_thawed(Uuid vm, async::Deadline deadline);

    // --- volumes and pools ---
    /// Reads the header of a volume again.
    async::Task<> inspect_volume(Uuid volume);
    async::Task<> inspect_volumes(std::vector<Uuid> volumes);
    /// Why a disk cannot be relied on: a layer is missing or damaged, or its VM runs on another one than is recorded.
    /// Empty where it can.
    [[nodiscard]] std::string broken(const Uuid& disk) const;
    [[nodiscard]] PoolStatus pool_status(const Uuid& pool) const;
    async::Task<> inspect_pool(Uuid pool, bool probe_reflink);
    /// Held from the look at which pools there are to the commit of a new one.
    async::Task<async::Mutex::Guard> turn_for_new_pools();

    /// Writes the manifests that are marked stale, soon.
    void write_manifests();

  private:
    void vm_changed(const Uuid& vm) override;
    async::Task<> vm_connected(Uuid vm) override;

    void tell(ObjectId object, ChangeKind change);
    async::Task<> look_at_vms();
    async::Task<> thaw_all();
    void lock_changed(const ObjectId& object);
    async::Task<> adopt_new_disks(VmRecord record);
    async::Task<> adopt_when_free(Uuid vm);
    async::Task<> see_to_memory(Uuid vm);
    async::Task<> watch_pools();
    async::Task<> look_at_pool(Uuid pool);
    [[nodiscard]] std::vector<Uuid> doubtful_volumes(const Uuid& pool) const;
    async::Task<> look_at_images();
    async::Task<> wait_for_images(async::Deadline deadline);
    async::Task<> write_stale_manifests();
    async::Task<> write_manifests_now();
    async::Task<> write_manifest_of(Uuid vm);
    [[nodiscard]] Uuid pool_at(const std::string& path) const;

    async::Executor executor_;
    Settings settings_;
    std::string state_directory_;
    std::string runtime_directory_;
    EngineObserver* observer_ = nullptr;
    ProcessKeeper* keeper_ = nullptr;
    Catalog catalog_;
    Locks locks_;
    Holds holds_;
    async::Workers files_{4};
    std::map<Uuid, async::Workers> pool_files_;  ///< those that were once made stay
    std::map<Uuid, async::Workers> pool_readers_;
    std::map<Uuid, std::shared_ptr<Vm>> vms_;
    std::map<Uuid, PoolStatus> pool_status_;
    std::set<Uuid> pools_looked_at_;  ///< just now
    bool images_looked_at_ = false;   ///< once, since the start
    async::Condition images_seen_;
    bool stopping_ = false;  ///< no VM is taken on any more
    async::Mutex new_pools_;
    std::set<Uuid> adoption_waits_;  ///< until the VM's lock is free
    std::set<Uuid> thawing_;
    async::Condition thaws_;  ///< one has ended, or is wanted at once
    bool manifests_wanted_ = false;
    async::Condition manifests_asked_;
    async::TaskGroup tasks_;
    Exports exports_;
    Backups backups_;
    Jobs jobs_;
    Scheduler schedules_;
};

}  // namespace volchain::storage
