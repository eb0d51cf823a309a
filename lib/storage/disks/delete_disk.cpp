// SPDX-License-Identifier: MIT
#include "storage/disks/delete_disk.h"

#include <set>

#include "base/text.h"
#include "storage/backups/backup_place.h"
#include "storage/images/doomed_files.h"
#include "storage/images/volume_lock.h"
#include "storage/jobs/held_volumes.h"
#include "storage/jobs/presence.h"
#include "storage/records/preview_state.h"
#include "storage/vms/disk_snapshots.h"
#include "storage/vms/vms.h"

namespace volchain::storage {
namespace {

/// The VMs whose records change: the disk's, and those whose snapshots name it.
std::set<Uuid> concerned_vms(const Catalog& catalog, const Uuid& disk) {
    std::set<Uuid> vms{catalog.disk(disk).vm};
    for (const Uuid& snapshot : snapshots_with_disk(catalog, disk)) vms.insert(catalog.snapshot(snapshot).vm);
    vms.erase(Uuid{});
    return vms;
}

void refuse_snapshots(const Catalog& catalog, const DeleteRequest& request) {
    std::vector<std::string> names;
    for (const Uuid& snapshot : snapshots_with_disk(catalog, request.disk))
        names.push_back(catalog.describe({ObjectKind::snapshot, snapshot}));
    if (names.empty() || request.snapshots) return;
    throw Error(ErrorCode::in_use, "{} is in {}, which would lose it; say snapshots=true if that is wanted",
                catalog.describe({ObjectKind::disk, request.disk}), clipped(joined(names, ", "), 1000));
}

void refuse_foreign_children(const Catalog& catalog, const Uuid& disk) {
    std::vector<std::string> needed;
    for (const Uuid& volume : catalog.volumes_of_disk(disk))
        for (const Uuid& child : catalog.children(volume))
            if (const Uuid other = catalog.volume(child).disk; other != disk)
                needed.push_back(fmt::format("{} of {}", catalog.describe({ObjectKind::volume, child}),
                                             catalog.describe({ObjectKind::disk, other})));
    if (needed.empty()) return;
    throw Error(ErrorCode::in_use, "{} has volumes that are backing files of {}; delete that first",
                catalog.describe({ObjectKind::disk, disk}), clipped(joined(needed, ", "), 1000));
}

void check_deletable(const Catalog& catalog, const DeleteRequest& request) {
    for (const Uuid& vm : concerned_vms(catalog, request.disk)) check_no_preview(catalog, vm);
    for (const Uuid& volume : catalog.volumes_of_disk(request.disk)) check_not_exported(catalog, volume);
    refuse_foreign_children(catalog, request.disk);
    refuse_snapshots(catalog, request);
}

class DeleteDisk {
  public:
    DeleteDisk(Engine& engine, JobPtr job) : engine_(engine), job_(std::move(job)) {}

    async::Task<> run(DeleteRequest request) {
        co_await job_->step("lock");
        co_await lock_images(request.disk);
        co_await job_->step("forget");
        // Images may have got overlays of other disks meanwhile.
        check_deletable(engine_.catalog(), request);
        job_->no_return();
        Changes changes = forget(request.disk);
        job_->set_plan(plan(request.disk));
        job_->put_record(changes);
        co_await engine_.catalog().commit(std::move(changes), Durability::power);
        engine_.write_manifests();
        co_await unlink();
    }

    async::Task<> recover() {
        const JsonReader plan(job_->record().plan, "plan of job " + job_->id().str(), ErrorCode::internal);
        doomed_ = DoomedFiles::from_plan(plan.at("files"));
        volumes_ = plan.u64_or("volumes", plan.at("files").elements().size());
        if (!engine_.catalog().has(job_->record().subject)) co_return co_await unlink();
        Error reason(ErrorCode::interrupted, "the daemon ended at step {}; nothing was deleted",
                     job_->record().step);
        co_await job_->fail(Changes{}, std::move(reason));
    }

    /// Before there is anything to forget.
    [[nodiscard]] static Json first_plan(const std::set<Uuid>& vms) {
        Json plan;
        plan["files"] = Json::array();
        plan["volumes"] = 0;
        plan["vms"] = Json::array();
        for (const Uuid& vm : vms) plan["vms"].push_back(vm.str());
        return plan;
    }

  private:
    [[nodiscard]] Json plan(const Uuid& disk) const {
        Json plan = first_plan(concerned_vms(engine_.catalog(), disk));
        plan["files"] = doomed_.plan();
        plan["volumes"] = volumes_;
        return plan;
    }

    async::Task<> lock_images(Uuid disk) {
        for (const Uuid& id : engine_.catalog().volumes_of_disk(disk)) {
            std::optional<qmp::ImageLock> lock = co_await lock_if_there(engine_, id);
            if (lock) locks_.push_back(*std::move(lock));
        }
    }

    [[nodiscard]] Changes forget(const Uuid& disk) {
        const Catalog& catalog = engine_.catalog();
        Changes changes;
        for (const SnapshotFile& file : snapshots_lose_disk(catalog, disk, changes))
            doomed_.add(catalog.pool(file.pool).path, file.file);
        for (const ScratchFile& file : scratch_of_failed_backups(catalog, disk))
            doomed_.add(file.pool, file.file);
        if (const Uuid vm = catalog.disk(disk).vm) changes.put(ManifestStale{vm, true});
        for (const Uuid& volume : catalog.volumes_of_disk(disk)) {
            doomed_.add(engine_, volume, changes);
            ++volumes_;
        }
        changes.remove(ObjectKind::disk, disk);
        return changes;
    }

    async::Task<> unlink() {
        co_await job_->undo_step("unlink");
        // Each file is locked again for its unlink.
        locks_.clear();
        std::exception_ptr failure;
        co_await async::keep_failure(doomed_.unlink_all(engine_), failure);
        if (failure) {
            const Error why = to_error(failure);
            Error reason(why.code(), "the disk is forgotten, but a file of it stays: {}", why.what());
            co_return co_await job_->fail(Changes{}, std::move(reason));
        }
        Json result;
        result["volumes"] = volumes_;
        co_await job_->succeed(Changes{}, std::move(result));
    }

    Engine& engine_;
    JobPtr job_;
    std::vector<qmp::ImageLock> locks_;
    DoomedFiles doomed_;
    std::uint64_t volumes_ = 0;
};

async::Task<> run(Engine& engine, JobPtr job, DeleteRequest request) {
    DeleteDisk operation(engine, std::move(job));
    co_await operation.run(request);
}

}  // namespace

async::Task<Uuid> delete_disk(Engine& engine, DeleteRequest request) {
    const Catalog& catalog = engine.catalog();
    const Uuid vm = catalog.disk(request.disk).vm;
    if (vm) co_await require_down(engine, vm, "deleting a disk of it");
    refuse_moved(catalog, request.disk, vm);
    check_deletable(catalog, request);
    const std::vector<Uuid> volumes = catalog.volumes_of_disk(request.disk);
    engine.holds().check_free({volumes.begin(), volumes.end()});
    const std::set<Uuid> vms = concerned_vms(catalog, request.disk);
    JobRequest job("delete-disk", {ObjectKind::disk, request.disk}, request.owner_uid);
    job.locks.push_back({ObjectKind::disk, request.disk});
    for (const Uuid& concerned : vms) job.locks.push_back({ObjectKind::vm, concerned});
    job.plan = DeleteDisk::first_plan(vms);
    Operation operation = [&engine, request](JobPtr started) {
        return run(engine, std::move(started), request);
    };
    co_return co_await engine.jobs().start(std::move(job), std::move(operation));
}

async::Task<> recover_delete_disk(Engine& engine, JobPtr job) {
    DeleteDisk operation(engine, std::move(job));
    co_await operation.recover();
}

std::vector<ObjectId> locks_of_delete_disk(const JobRecord& job) {
    const JsonReader plan(job.plan, "plan of job " + job.id.str(), ErrorCode::internal);
    std::vector<ObjectId> objects{job.subject};
    for (const JsonReader& vm : plan.at("vms").elements())
        objects.push_back({ObjectKind::vm, Uuid::parse(vm.string()).value_or(Uuid{})});
    return objects;
}

}  // namespace volchain::storage
