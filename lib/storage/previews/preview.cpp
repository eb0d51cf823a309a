// SPDX-License-Identifier: MIT
#include "storage/previews/preview.h"

#include <algorithm>

#include "base/text.h"
#include "storage/memory/resume_state.h"
#include "storage/previews/left_branch.h"
#include "storage/previews/nvram_swap.h"
#include "storage/records/preview_state.h"
#include "storage/vms/vms.h"
#include "storage/volumes/overlays.h"

namespace volchain::storage {
namespace {

constexpr std::string_view revert_kind = "revert";

// --- what is asked for -----------------------------------------------------------------------------------

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
    check_whole(catalog, config);
    if (config.config.empty() && config.files.empty())
        throw Error(ErrorCode::invalid_argument, "{} has no configuration",
                    catalog.describe({ObjectKind::snapshot, config.id}));
}

/// Nil: the VM boots. Throws where it was asked for and cannot be; else `why` says why it does not come along.
Uuid memory_source(const Catalog& catalog, const PreviewRequest& request, std::string& why) {
    const bool wanted = request.memory.value_or(false);
    if (request.config_from.nil() && wanted)
        throw Error(
            ErrorCode::invalid_argument,
            "option 'memory': memory comes with the configuration of its snapshot, and none comes along");
    if (request.config_from.nil() || !request.memory.value_or(true)) return {};
    const SnapshotRecord& snapshot = catalog.snapshot(request.config_from);
    const bool has_memory = memory_of(snapshot) != nullptr;
    if (!has_memory && !wanted) return {};
    why = has_memory ? memory_misfit(catalog, snapshot, request.disks) : "the snapshot has none";
    if (why.empty()) return snapshot.id;
    if (!wanted) return {};
    throw Error(ErrorCode::invalid_argument, "option 'memory': that of {} cannot be gone on from: {}",
                catalog.describe({ObjectKind::snapshot, snapshot.id}), why);
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

// --- the operation ---------------------------------------------------------------------------------------

/// What the operation has to know besides its overlays.
struct PreviewPlan {
    PreviewPlan() = default;

    Uuid snapshot;     ///< the leading one
    Uuid config_from;  ///< or nil
    Uuid memory_from;  ///< or nil
    std::string why_no_memory;
    bool keep_branch = false;
    std::set<Uuid> shown;
    Json left_out = Json::array();
};

class Preview {
  public:
    Preview(Engine& engine, JobPtr job, Overlays overlays, PreviewPlan plan)
        : engine_(engine),
          job_(std::move(job)),
          overlays_(std::move(overlays)),
          plan_(std::move(plan)),
          nvram_(engine) {}

    async::Task<> run() {
        std::exception_ptr failure;
        co_await async::keep_failure(forward(), failure);
        if (!failure || finished(job_->record().state)) co_return;
        if (switched_)
            co_await finish();
        else
            co_await undo(to_error(failure));
    }

    /// After a crash of the daemon.
    async::Task<> recover() {
        const std::string step = job_->record().step;
        opened_ = step != "record" && step != "lock" && step != "files";
        const JsonReader plan(job_->record().plan, "plan of job " + job_->id().str(), ErrorCode::internal);
        if (const auto nvram = plan.find("nvram")) nvram_ = NvramSwap::from_plan(engine_, *nvram);
        if (engine_.catalog().has({ObjectKind::volume, overlays_.all().front().volume})) {
            files_ = DoomedFiles::from_plan(plan.at("doomed"));
            result_ = plan.at("result").json();
            co_return co_await finish();
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
        co_await plan_nvram();
        co_await job_->step("files");
        co_await overlays_.create_files();
        co_await nvram_.keep_former();
        note_in_plan("nvram", nvram_.plan());
        co_await job_->step("bitmaps");
        opened_ = true;
        co_await overlays_.carry_bitmaps();
        if (!plan_.left_out.empty()) result_["left-out"] = plan_.left_out;
        if (!plan_.why_no_memory.empty()) result_["memory"] = plan_.why_no_memory;
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

    void note_in_plan(const char* name, Json value) {
        Json plan = job_->record().plan;
        plan[name] = std::move(value);
        job_->set_plan(std::move(plan));
    }

    /// What comes after the switch, for a crash.
    void note_rest() {
        note_in_plan("doomed", files_.plan());
        note_in_plan("result", result_);
    }

    /// The stores come back with the configuration. What they hold now is kept where somebody may want it again.
    async::Task<> plan_nvram() {
        if (plan_.config_from.nil()) co_return;
        const Catalog& catalog = engine_.catalog();
        nvram_ = NvramSwap(engine_, vm(), catalog.snapshot(plan_.config_from).files);
        if (nvram_.empty()) co_return;
        co_await nvram_.lock();
        if (!reverts() || plan_.keep_branch)
            nvram_.plan_former(vm(), catalog.disk(overlays_.all().front().disk).active);
        note_in_plan("nvram", nvram_.plan());
    }

    async::Task<> switch_over() {
        note_rest();
        co_await job_->step("switch");
        job_->no_return();
        VmRecord vm = this->vm();
        PreviewRecord& preview = vm.preview.emplace();
        preview.snapshot = plan_.snapshot;
        preview.former_resumes_from = std::exchange(vm.resumes_from, plan_.memory_from);
        preview.former_nvram = nvram_.former();
        preview.with_config = brings_config();
        if (preview.with_config) {
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
        if (nvram_.empty()) {
            co_await job_->succeed(std::move(changes), result_);
            engine_.write_manifests();
            co_return;
        }
        co_await engine_.catalog().commit(std::move(changes), Durability::power);
        switched_ = true;
        co_await finish();
    }

    /// What is left after the switch.
    async::Task<> finish() {
        if (!nvram_.empty()) {
            co_await job_->undo_step("nvram");
            const std::vector<std::string> problems = co_await nvram_.replace();
            if (!problems.empty()) result_["not-restored"] = problems;
        }
        if (reverts()) co_return co_await finish_leaving(engine_, job_, files_, result_);
        engine_.write_manifests();
        co_await job_->succeed(Changes{}, result_);
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
            co_await left.keep(fmt::format("before revert to '{}'", target), vm, nvram_.former(), true);
        } else {
            co_await left.give_up(plan_.shown, true);
        }
        files_ = left.files();
        result_.update(left.result());
        note_rest();
        co_await job_->step("switch");
        job_->no_return();
        vm.current_snapshot = plan_.snapshot;
        vm.resumes_from = plan_.memory_from;
        if (brings_config()) take_config(vm);
        Changes changes = overlays_.changes();
        left.put(changes);
        changes.put(ManifestStale{vm.id, true});
        changes.put(std::move(vm));
        overlays_.make_known();
        co_await engine_.catalog().commit(std::move(changes), Durability::power);
        switched_ = true;
        left.unlock();
        overlays_.unlock_images();
        co_await finish();
    }

    [[nodiscard]] bool brings_config() const {
        return plan_.config_from && !engine_.catalog().snapshot(plan_.config_from).config.empty();
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
        if (!failure) co_await async::keep_failure(nvram_.remove_former(), failure);
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
    NvramSwap nvram_;
    DoomedFiles files_;
    Json result_ = Json::object();
    bool opened_ = false;    ///< a storage daemon may have had the new files
    bool switched_ = false;  ///< only variable stores, and the files of what went, are left
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
    plan.memory_from = memory_source(catalog, request, plan.why_no_memory);
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
    if (with_config && (!snapshot.config.empty() || !snapshot.files.empty())) request.config_from = id;
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
