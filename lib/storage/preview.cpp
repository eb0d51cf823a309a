// SPDX-License-Identifier: MIT
#include "storage/preview.h"

#include <algorithm>

#include "base/text.h"
#include "storage/left_branch.h"
#include "storage/overlays.h"
#include "storage/preview_state.h"
#include "storage/vms.h"

namespace volchain::storage {
namespace {

constexpr std::string_view revert_kind = "revert";

// --- what is asked for
// ------------------------------------------------------------------------------------------------

const SnapshotDisk* part_of(const SnapshotRecord& snapshot, const Uuid& disk) {
    const auto found = std::find_if(snapshot.disks.begin(), snapshot.disks.end(),
                                    [&](const SnapshotDisk& part) { return part.disk == disk; });
    return found == snapshot.disks.end() ? nullptr : &*found;
}

const SnapshotRecord& snapshot_of_vm(const Catalog& catalog, const Uuid& id, const Uuid& vm) {
    const SnapshotRecord& snapshot = catalog.snapshot(id);
    if (snapshot.vm != vm)
        throw Error(ErrorCode::invalid_argument, "{} is not one of {}",
                    catalog.describe({ObjectKind::snapshot, id}), catalog.describe({ObjectKind::vm, vm}));
    return snapshot;
}

/// Whether what the snapshot names is what it was taken of.
void check_whole(const Catalog& catalog, const SnapshotRecord& snapshot) {
    const std::string what = catalog.describe({ObjectKind::snapshot, snapshot.id});
    switch (snapshot.status) {
        case SnapshotStatus::ok:
        case SnapshotStatus::partial:
            return;
        case SnapshotStatus::creating:
        case SnapshotStatus::deleting:
            throw Error(ErrorCode::busy, "{} is {}: wait for the end of that", what,
                        snapshot.status == SnapshotStatus::creating ? "being created" : "being deleted");
        case SnapshotStatus::failed:
            break;
    }
    throw Error(ErrorCode::broken_chain,
                "{} is not whole any more, because its deletion ended halfway: it can only be deleted", what);
}

void check_volume(const Catalog& catalog, const SnapshotRecord& snapshot, const Uuid& id) {
    const std::string of = catalog.describe({ObjectKind::snapshot, snapshot.id});
    if (!catalog.has({ObjectKind::volume, id}))
        throw Error(ErrorCode::broken_chain, "{}: its volume {} is not known any more", of, id.str());
    if (catalog.volume(id).mark == VolumeMark::illegal)
        throw Error(
            ErrorCode::broken_chain,
            "{}: {} does not hold its content any more, because a merge into it or over it was broken off",
            of, catalog.describe({ObjectKind::volume, id}));
}

void check_choice(const Catalog& catalog, const PreviewRequest& request, const Uuid& disk, const Uuid& id) {
    const std::string what = catalog.describe({ObjectKind::disk, disk});
    if (catalog.disk(disk).vm != request.vm)
        throw Error(ErrorCode::invalid_argument, "{} is not a disk of {}", what,
                    catalog.describe({ObjectKind::vm, request.vm}));
    const SnapshotRecord& snapshot = snapshot_of_vm(catalog, id, request.vm);
    check_whole(catalog, snapshot);
    const SnapshotDisk* const part = part_of(snapshot, disk);
    if (part == nullptr)
        throw Error(ErrorCode::invalid_argument, "{} does not have {}",
                    catalog.describe({ObjectKind::snapshot, id}), what);
    check_volume(catalog, snapshot, part->volume);
}

void check_preview_request(const Catalog& catalog, const PreviewRequest& request) {
    check_no_preview(catalog, request.vm);
    if (request.disks.empty())
        throw Error(ErrorCode::invalid_argument, "no disk of {} is chosen: name each one with its snapshot",
                    catalog.describe({ObjectKind::vm, request.vm}));
    for (const auto& [disk, snapshot] : request.disks) check_choice(catalog, request, disk, snapshot);
    if (request.config_from.nil()) return;
    const SnapshotRecord& config = snapshot_of_vm(catalog, request.config_from, request.vm);
    if (config.config.empty())
        throw Error(ErrorCode::invalid_argument, "{} has no configuration",
                    catalog.describe({ObjectKind::snapshot, config.id}));
}

bool descends_from(const Catalog& catalog, Uuid snapshot, const Uuid& ancestor) {
    std::set<Uuid> seen;
    for (; catalog.has({ObjectKind::snapshot, snapshot}) && seen.insert(snapshot).second;
         snapshot = catalog.snapshot(snapshot).parent)
        if (snapshot == ancestor) return true;
    return false;
}

Overlays planned_overlays(Engine& engine, const PreviewRequest& request) {
    Overlays overlays(engine, Uuid{}, OnDiskFailure::abort);
    for (const auto& [disk, snapshot] : request.disks) {
        const SnapshotRecord& record = engine.catalog().snapshot(snapshot);
        overlays.add_branch(disk, part_of(record, disk)->volume, true);
    }
    return overlays;
}

// --- the operation
// ---------------------------------------------------------------------------------------------------

/// What the operation has to know besides its overlays.
struct PreviewPlan {
    PreviewPlan() = default;

    Uuid snapshot;     ///< the leading one
    Uuid config_from;  ///< or nil
    bool keep_branch = false;
    std::set<Uuid> shown;
    Json left_out = Json::array();
};

class Preview {
  public:
    Preview(Engine& engine, JobPtr job, Overlays overlays, PreviewPlan plan)
        : engine_(engine), job_(std::move(job)), overlays_(std::move(overlays)), plan_(std::move(plan)) {}

    async::Task<> run() {
        std::exception_ptr failure;
        co_await async::keep_failure(forward(), failure);
        if (!failure || finished(job_->record().state)) co_return;
        if (switched_)
            co_await finish_leaving(engine_, job_, files_, result_);
        else
            co_await undo(to_error(failure));
    }

    /// After a crash of the daemon.
    async::Task<> recover() {
        const std::string step = job_->record().step;
        opened_ = step != "record" && step != "lock" && step != "files";
        if (engine_.catalog().has({ObjectKind::volume, overlays_.all().front().volume})) {
            const JsonReader plan(job_->record().plan, "plan of job " + job_->id().str(),
                                  ErrorCode::internal);
            DoomedFiles files = DoomedFiles::from_plan(plan.at("doomed"));
            Json result = plan.at("result").json();
            co_return co_await finish_leaving(engine_, job_, std::move(files), std::move(result));
        }
        (void)co_await overlays_.settle();  // before the switch; this waits until the files' pools are there
        co_await undo(Error(ErrorCode::interrupted, "the daemon ended at step {}", step));
    }

  private:
    [[nodiscard]] bool reverts() const { return job_->record().kind == revert_kind; }
    [[nodiscard]] const VmRecord& vm() const { return engine_.catalog().vm(job_->record().subject.id); }

    async::Task<> forward() {
        co_await job_->step("lock");
        co_await overlays_.lock_images();
        co_await check_chains();
        co_await job_->step("files");
        co_await overlays_.create_files();
        co_await job_->step("bitmaps");
        opened_ = true;
        co_await overlays_.carry_bitmaps();
        if (!plan_.left_out.empty()) result_["left-out"] = plan_.left_out;
        if (reverts())
            co_await switch_for_good();
        else
            co_await switch_over();
    }

    /// A preview that cannot be read is none; the former state is of no use then, either, if it is given up.
    async::Task<> check_chains() {
        const Catalog& catalog = engine_.catalog();
        std::vector<Uuid> layers;
        for (const PlannedOverlay& overlay : overlays_.all()) {
            const std::vector<Uuid> chain = catalog.chain(overlay.parent);
            layers.insert(layers.end(), chain.begin(), chain.end());
        }
        co_await engine_.inspect_volumes(layers);
        for (const Uuid& layer : layers) {
            const VolumeFacts& facts = catalog.facts(layer);
            if (facts.state != VolumeState::ok)
                throw Error(ErrorCode::broken_chain, "{} is {}: {}",
                            catalog.describe({ObjectKind::volume, layer}), word(facts.state), facts.problem);
        }
    }

    async::Task<> switch_over() {
        co_await job_->step("switch");
        job_->no_return();
        VmRecord vm = this->vm();
        PreviewRecord& preview = vm.preview.emplace();
        preview.snapshot = plan_.snapshot;
        if (plan_.config_from) {
            preview.with_config = true;
            preview.former_config = vm.config;
            preview.former_config_type = vm.config_type;
            take_config(vm);
        }
        Changes changes = overlays_.changes();
        for (const PlannedOverlay& overlay : overlays_.kept()) {
            DiskRecord disk = engine_.catalog().disk(overlay.disk);
            disk.former = disk.active;
            disk.active = overlay.volume;
            changes.put(std::move(disk));
        }
        changes.put(ManifestStale{vm.id, true});
        changes.put(std::move(vm));
        overlays_.make_known();
        co_await job_->succeed(std::move(changes), result_);
        engine_.write_manifests();
    }

    /// Preview and commit in one.
    async::Task<> switch_for_good() {
        VmRecord vm = this->vm();
        Leaves leaves;
        for (const PlannedOverlay& overlay : overlays_.kept())
            leaves.emplace(overlay.disk, engine_.catalog().disk(overlay.disk).active);
        LeftBranch left(engine_, vm.id, std::move(leaves));
        if (plan_.keep_branch) {
            const std::string target = engine_.catalog().snapshot(plan_.snapshot).name;
            co_await left.keep(fmt::format("before revert to '{}'", target), vm, true);
        } else {
            co_await left.give_up(plan_.shown, true);
        }
        files_ = left.files();
        result_.update(left.result());
        Json plan = job_->record().plan;
        plan["doomed"] = files_.plan();
        plan["result"] = result_;
        job_->set_plan(std::move(plan));
        co_await job_->step("switch");
        job_->no_return();
        vm.current_snapshot = plan_.snapshot;
        if (plan_.config_from) take_config(vm);
        Changes changes = overlays_.changes();
        left.put(changes);
        changes.put(ManifestStale{vm.id, true});
        changes.put(std::move(vm));
        overlays_.make_known();
        co_await engine_.catalog().commit(std::move(changes), Durability::power);
        switched_ = true;
        left.unlock();
        overlays_.unlock_images();
        co_await finish_leaving(engine_, job_, files_, result_);
    }

    void take_config(VmRecord& vm) const {
        const SnapshotRecord& from = engine_.catalog().snapshot(plan_.config_from);
        vm.config = from.config;
        vm.config_type = from.config_type;
    }

    async::Task<> undo(Error reason) {
        std::exception_ptr failure;
        co_await async::keep_failure(job_->undo_step("undo"), failure);
        if (!failure) co_await async::keep_failure(overlays_.undo(opened_), failure);
        if (failure)
            reason = Error(reason.code(), "{}; not all of it could be undone: {}", reason.what(),
                           to_error(failure).what());
        else
            reason = Error(reason.code(), "{}; the VM is on what it was on before", reason.what());
        co_await job_->fail(Changes{}, std::move(reason));
    }

    Engine& engine_;
    JobPtr job_;
    Overlays overlays_;
    PreviewPlan plan_;
    DoomedFiles files_;
    Json result_ = Json::object();
    bool opened_ = false;    ///< a storage daemon may have had the new files
    bool switched_ = false;  ///< of a revert: only the files of what went are left
};

async::Task<> run_preview(Engine& engine, JobPtr job, Overlays overlays, PreviewPlan plan) {
    Preview operation(engine, std::move(job), std::move(overlays), std::move(plan));
    co_await operation.run();
}

Json disks_in_result(const std::vector<Uuid>& disks) {
    Json all = Json::array();
    for (const Uuid& disk : disks) all.push_back(object_json({ObjectKind::disk, disk}));
    return all;
}

async::Task<Uuid> start_preview(Engine& engine, std::string kind, PreviewRequest request, bool keep_branch) {
    const Catalog& catalog = engine.catalog();
    check_preview_request(catalog, request);
    co_await require_down(engine, request.vm, "showing a snapshot");
    check_preview_request(catalog, request);  // things may have changed meanwhile

    PreviewPlan plan;
    plan.snapshot = leading_snapshot(catalog, request.disks, request.config_from);
    plan.config_from = request.config_from;
    plan.keep_branch = keep_branch;
    plan.shown.insert(plan.snapshot);
    for (const auto& [disk, snapshot] : request.disks) plan.shown.insert(snapshot);
    plan.left_out = disks_in_result(request.left_out);

    Overlays overlays = planned_overlays(engine, request);
    JobRequest job(std::move(kind), {ObjectKind::vm, request.vm}, request.owner_uid);
    job.locks = vm_with_disks(catalog, request.vm);
    job.plan = overlays.plan();
    job.plan["locked"] = plan_of_locks(job.locks);
    Operation operation = [&engine, shared = std::make_shared<Overlays>(std::move(overlays)),
                           plan = std::move(plan)](JobPtr started) {
        return run_preview(engine, std::move(started), std::move(*shared), plan);
    };
    co_return co_await engine.jobs().start(std::move(job), std::move(operation));
}

}  // namespace

Uuid leading_snapshot(const Catalog& catalog, const std::map<Uuid, Uuid>& choice, const Uuid& config_from) {
    const SnapshotRecord* youngest = nullptr;
    for (const auto& chosen : choice) {
        const SnapshotRecord& snapshot = catalog.snapshot(chosen.second);
        const bool deepest = std::all_of(choice.begin(), choice.end(), [&](const auto& other) {
            return descends_from(catalog, snapshot.id, other.second);
        });
        if (deepest) return snapshot.id;
        if (youngest == nullptr || snapshot.created > youngest->created) youngest = &snapshot;
    }
    return config_from ? config_from : youngest->id;
}

PreviewRequest PreviewRequest::of_snapshot(const Catalog& catalog, const Uuid& id, bool with_config) {
    const SnapshotRecord& snapshot = catalog.snapshot(id);
    if (snapshot.vm.nil())
        throw Error(ErrorCode::unsupported, "{} is of a floating disk: only a VM can show a preview",
                    catalog.describe({ObjectKind::snapshot, id}));
    PreviewRequest request(snapshot.vm);
    for (const SnapshotDisk& part : snapshot.disks) {
        const auto disk = catalog.disks().find(part.disk);
        if (disk != catalog.disks().end() && disk->second.vm == snapshot.vm)
            request.disks.emplace(part.disk, id);
        else
            request.left_out.push_back(part.disk);
    }
    if (request.disks.empty())
        throw Error(ErrorCode::unsupported, "{} has no disk that is still one of {}",
                    catalog.describe({ObjectKind::snapshot, id}),
                    catalog.describe({ObjectKind::vm, snapshot.vm}));
    if (with_config && !snapshot.config.empty()) request.config_from = id;
    return request;
}

async::Task<Uuid> preview(Engine& engine, PreviewRequest request) {
    return start_preview(engine, "preview", std::move(request), false);
}

async::Task<Uuid> revert(Engine& engine, PreviewRequest request, bool keep_branch) {
    return start_preview(engine, std::string(revert_kind), std::move(request), keep_branch);
}

async::Task<> recover_preview(Engine& engine, JobPtr job) {
    const JsonReader plan(job->record().plan, "plan of job " + job->id().str(), ErrorCode::internal);
    Preview operation(engine, job, Overlays::from_plan(engine, plan), PreviewPlan());
    co_await operation.recover();
}

}  // namespace volchain::storage
