// SPDX-License-Identifier: MIT
#include "storage/disks/create_overlay.h"

#include "base/text.h"
#include "storage/records/preview_state.h"

namespace volchain::storage {
namespace {

class CreateOverlay {
  public:
    CreateOverlay(Engine& engine, JobPtr job, Overlays overlays)
        : engine_(engine), job_(std::move(job)), overlays_(std::move(overlays)) {}

    async::Task<> run() {
        std::exception_ptr failure;
        co_await async::keep_failure(forward(), failure);
        if (!failure || finished(job_->record().state)) co_return;
        if (switched_)
            co_await settle(to_error(failure));
        else
            co_await undo(to_error(failure));
    }

    async::Task<> recover() {
        const std::string step = job_->record().step;
        opened_ = step != "record" && step != "lock" && step != "files";
        co_await settle(Error(ErrorCode::interrupted, "the daemon ended at step {}", step));
    }

  private:
    async::Task<> forward() {
        if (!overlays_.live()) {
            co_await job_->step("lock");
            co_await overlays_.lock_images();
        }
        co_await job_->step("files");
        co_await overlays_.create_files();
        if (overlays_.live())
            co_await forward_live();
        else
            co_await forward_offline();
        co_await job_->undo_step("finish");
        co_await finish();
    }

    async::Task<> forward_live() {
        co_await job_->step("nodes");
        opened_ = true;
        co_await overlays_.add_nodes();
        co_await job_->step("switch");
        job_->no_return();
        switched_ = true;
        try {
            (void)co_await overlays_.switch_over();
        } catch (const qmp::CommandError&) {
            switched_ = false;  // QEMU refused, and changed nothing
            throw;
        }
    }

    async::Task<> forward_offline() {
        co_await job_->step("bitmaps");
        opened_ = true;
        co_await overlays_.carry_bitmaps();
        job_->no_return();
    }

    async::Task<> finish() {
        const PlannedOverlay& overlay = overlays_.all().front();
        Changes changes = overlays_.changes();
        if (const Uuid vm = engine_.catalog().disk(overlay.disk).vm) changes.put(ManifestStale{vm, true});
        Json result;
        result["volume"] = object_json({ObjectKind::volume, overlay.volume});
        overlays_.make_known();
        co_await job_->succeed(std::move(changes), std::move(result));
        engine_.write_manifests();
    }

    async::Task<> undo(Error reason) {
        co_await job_->begin_undo();
        std::exception_ptr failure;
        co_await async::keep_failure(overlays_.undo(opened_), failure);
        if (failure)
            reason = Error(reason.code(), "{}; not all of it could be undone: {}", reason.what(),
                           to_error(failure).what());
        co_await job_->fail(Changes{}, std::move(reason));
    }

    async::Task<> settle(Error reason) {
        const Overlays::Side side = co_await overlays_.settle();
        if (side == Overlays::Side::before_switch)
            co_return co_await undo(Error(reason.code(), "{}; the overlay was removed", reason.what()));
        co_await finish();
    }

    Engine& engine_;
    JobPtr job_;
    Overlays overlays_;
    bool opened_ = false;
    bool switched_ = false;
};

async::Task<> run(Engine& engine, JobPtr job, Overlays overlays) {
    CreateOverlay operation(engine, std::move(job), std::move(overlays));
    co_await operation.run();
}

void check_request(const Catalog& catalog, const OverlayRequest& request) {
    const DiskRecord& disk = catalog.disk(request.disk);
    const auto refusal = not_to_be_covered(disk);
    if (refusal && (request.backing.nil() || request.activate))
        throw refusal->during(catalog.describe({ObjectKind::disk, disk.id}));
    if (request.backing.nil()) {
        if (request.activate)
            throw Error(ErrorCode::invalid_argument,
                        "option 'activate' goes with 'backing': an overlay over the active "
                        "volume is always active");
        return;
    }
    const VolumeRecord& backing = catalog.volume(request.backing);
    if (backing.disk != disk.id)
        throw Error(ErrorCode::invalid_argument, "option 'backing': {} is not of {}",
                    catalog.describe({ObjectKind::volume, backing.id}),
                    catalog.describe({ObjectKind::disk, disk.id}));
    if (disk.active == backing.id && !request.activate)
        throw Error(
            ErrorCode::invalid_argument,
            "option 'backing': {} is the active volume; what is written to it would change the branch",
            catalog.describe({ObjectKind::volume, backing.id}));
}

std::vector<ObjectId> vm_and_disk(const Uuid& vm, const Uuid& disk) {
    std::vector<ObjectId> objects{{ObjectKind::disk, disk}};
    if (vm) objects.push_back({ObjectKind::vm, vm});
    return objects;
}

}  // namespace

async::Task<Uuid> create_overlay(Engine& engine, OverlayRequest request) {
    const Catalog& catalog = engine.catalog();
    check_request(catalog, request);
    const Uuid vm = catalog.disk(request.disk).vm;
    bool live = false;
    if (vm) live = co_await engine.ready_to_work(vm);
    check_no_preview(catalog, vm);
    if (live && request.activate)
        throw Error(ErrorCode::running,
                    "{} is running: another branch of a disk can be activated when it is down",
                    catalog.describe({ObjectKind::vm, vm}));

    const bool branch = !request.backing.nil() && request.backing != catalog.disk(request.disk).active;
    Overlays overlays(engine, live && !branch ? vm : Uuid{}, OnDiskFailure::abort);
    if (branch)
        overlays.add_branch(request.disk, request.backing, request.activate);
    else
        overlays.add(request.disk);

    JobRequest job("create-overlay", {ObjectKind::disk, request.disk}, request.owner_uid);
    job.locks = vm_and_disk(vm, request.disk);
    job.plan = overlays.plan();
    Operation operation = [&engine, shared = std::make_shared<Overlays>(std::move(overlays))](
                              JobPtr started) { return run(engine, std::move(started), std::move(*shared)); };
    co_return co_await engine.jobs().start(std::move(job), std::move(operation));
}

async::Task<> recover_create_overlay(Engine& engine, JobPtr job) {
    const JsonReader plan(job->record().plan, "plan of job " + job->id().str(), ErrorCode::internal);
    CreateOverlay operation(engine, job, Overlays::from_plan(engine, plan));
    co_await operation.recover();
}

std::vector<ObjectId> locks_of_create_overlay(const JobRecord& job) {
    const JsonReader plan(job.plan, "plan of job " + job.id.str(), ErrorCode::internal);
    return vm_and_disk(Uuid::parse(plan.at("vm").string()).value_or(Uuid{}), job.subject.id);
}

}  // namespace volchain::storage
