// SPDX-License-Identifier: MIT
#include "storage/previews/end_preview.h"

#include "base/text.h"
#include "storage/previews/left_branch.h"
#include "storage/previews/nvram_swap.h"
#include "storage/records/preview_state.h"
#include "storage/vms/vms.h"

namespace volchain::storage {
namespace {

constexpr std::string_view undo_kind = "undo-preview";

class EndPreview {
  public:
    EndPreview(Engine& engine, JobPtr job, bool keep_branch)
        : engine_(engine), job_(std::move(job)), keep_branch_(keep_branch), nvram_(engine) {}

    async::Task<> run() {
        std::exception_ptr failure;
        co_await async::keep_failure(forward(), failure);
        if (!failure || finished(job_->record().state)) co_return;
        if (switched_) co_return co_await finish();
        const Error error = to_error(failure);
        co_await job_->fail(Changes{},
                            Error(error.code(), "{}; the preview is shown as before", error.what()));
    }

    /// After a crash of the daemon.
    async::Task<> recover() {
        const JobRecord& record = job_->record();
        if (!vm().preview) {
            const JsonReader plan(record.plan, "plan of job " + record.id.str(), ErrorCode::internal);
            files_ = DoomedFiles::from_plan(plan.at("doomed"));
            result_ = plan.at("result").json();
            if (const auto nvram = plan.find("nvram")) nvram_ = NvramSwap::from_plan(engine_, *nvram);
            co_return co_await finish();
        }
        Error reason(ErrorCode::interrupted, "the daemon ended at step {}; the preview is shown as before",
                     record.step);
        co_await job_->fail(Changes{}, std::move(reason));
    }

  private:
    [[nodiscard]] bool undoes() const { return job_->record().kind == undo_kind; }
    [[nodiscard]] const VmRecord& vm() const { return engine_.catalog().vm(job_->record().subject.id); }

    /// The previewed disks, each with its volume of the state that is left.
    [[nodiscard]] Leaves leaves() const {
        Leaves all;
        for (const Uuid& id : engine_.catalog().disks_of_vm(vm().id)) {
            const DiskRecord& disk = engine_.catalog().disk(id);
            if (disk.former) all.emplace(id, undoes() ? disk.active : disk.former);
        }
        return all;
    }

    async::Task<> forward() {
        co_await job_->step("lock");
        LeftBranch left(engine_, vm().id, leaves());
        if (undoes())
            co_await go_back(left);
        else
            co_await give_up_or_keep(left);
        check_what_stays();
        files_ = left.files();
        result_ = left.result();
        Json plan = job_->record().plan;
        plan["doomed"] = files_.plan();
        plan["result"] = result_;
        plan["nvram"] = nvram_.plan();
        job_->set_plan(std::move(plan));
        co_await job_->step("switch");
        job_->no_return();
        Changes changes = records_after();
        left.put(changes);
        co_await engine_.catalog().commit(std::move(changes), Durability::power);
        switched_ = true;
        left.unlock();
        co_await finish();
    }

    /// What is left after the switch.
    async::Task<> finish() {
        if (!nvram_.empty()) {
            co_await job_->undo_step("nvram");
            const std::vector<std::string> problems = co_await nvram_.replace();
            if (!problems.empty()) result_["not-restored"] = problems;
        }
        co_await finish_leaving(engine_, job_, files_, result_);
    }

    /// The variable stores get back what they held. The copies of that go where it was done.
    async::Task<> go_back(LeftBranch& left) {
        const std::vector<SnapshotFile> former = vm().preview.value().former_nvram;
        nvram_ = NvramSwap(engine_, vm(), former);
        co_await nvram_.lock();
        co_await left.drop_leaves();
        left.drop(former);
    }

    async::Task<> give_up_or_keep(LeftBranch& left) {
        VmRecord before = vm();
        const PreviewRecord preview = before.preview.value();
        if (!keep_branch_) {
            left.drop(preview.former_nvram);
            std::set<Uuid> shown = shown_snapshots(engine_.catalog(), before.id);
            co_return co_await left.give_up(std::move(shown), false);
        }
        if (preview.with_config) {
            before.config = preview.former_config;
            before.config_type = preview.former_config_type;
        }
        const std::string target = engine_.catalog().snapshot(preview.snapshot).name;
        co_await left.keep(fmt::format("before preview of '{}'", target), std::move(before),
                           preview.former_nvram, false);
    }

    /// One of the two states is given up: the other one has to be whole.
    void check_what_stays() const {
        const Catalog& catalog = engine_.catalog();
        for (const auto& [id, leaf] : leaves()) {
            const DiskRecord& disk = catalog.disk(id);
            const std::string why = undoes() ? broken_chain(disk.former) : engine_.broken(id);
            if (!why.empty())
                throw Error(ErrorCode::broken_chain, "{} would be broken: {}",
                            catalog.describe({ObjectKind::disk, id}), why);
        }
    }

    [[nodiscard]] std::string broken_chain(const Uuid& top) const {
        const Catalog& catalog = engine_.catalog();
        for (const Uuid& layer : catalog.chain(top)) {
            const VolumeFacts& facts = catalog.facts(layer);
            if (facts.state != VolumeState::ok)
                return fmt::format("{} is {}: {}", catalog.describe({ObjectKind::volume, layer}),
                                   word(facts.state), facts.problem);
        }
        return {};
    }

    [[nodiscard]] Changes records_after() const {
        Changes changes;
        VmRecord vm = this->vm();
        const PreviewRecord preview = vm.preview.value();
        vm.preview.reset();
        if (!undoes()) {
            vm.current_snapshot = preview.snapshot;
        } else {
            vm.resumes_from = preview.former_resumes_from;
            if (preview.with_config) vm.config = preview.former_config;
            if (preview.with_config) vm.config_type = preview.former_config_type;
        }
        for (const auto& [id, leaf] : leaves()) {
            DiskRecord disk = engine_.catalog().disk(id);
            if (undoes()) disk.active = disk.former;
            disk.former = Uuid{};
            changes.put(std::move(disk));
        }
        changes.put(ManifestStale{vm.id, true});
        changes.put(std::move(vm));
        return changes;
    }

    Engine& engine_;
    JobPtr job_;
    bool keep_branch_;
    NvramSwap nvram_;
    DoomedFiles files_;
    Json result_ = Json::object();
    bool switched_ = false;  ///< only the files of what went are left
};

async::Task<> run_end_of_preview(Engine& engine, JobPtr job, bool keep_branch) {
    EndPreview operation(engine, std::move(job), keep_branch);
    co_await operation.run();
}

void check_previewed(const Catalog& catalog, const Uuid& vm) {
    if (!catalog.vm(vm).preview)
        throw Error(ErrorCode::invalid_argument, "{} shows no preview",
                    catalog.describe({ObjectKind::vm, vm}));
}

async::Task<Uuid> start_end_of_preview(Engine& engine, std::string kind, Uuid vm, bool keep_branch,
                                       std::uint32_t owner_uid) {
    JobRequest request(std::move(kind), {ObjectKind::vm, vm}, owner_uid);
    request.locks = vm_with_disks(engine.catalog(), vm);
    request.plan["locked"] = plan_of_locks(request.locks);
    Operation operation = [&engine, keep_branch](JobPtr job) {
        return run_end_of_preview(engine, std::move(job), keep_branch);
    };
    co_return co_await engine.jobs().start(std::move(request), std::move(operation));
}

}  // namespace

async::Task<Uuid> commit_preview(Engine& engine, Uuid vm, bool keep_branch, std::uint32_t owner_uid) {
    check_previewed(engine.catalog(), vm);
    co_return co_await start_end_of_preview(engine, "commit-preview", vm, keep_branch, owner_uid);
}

async::Task<Uuid> undo_preview(Engine& engine, Uuid vm, std::uint32_t owner_uid) {
    check_previewed(engine.catalog(), vm);
    co_await require_down(engine, vm, "undoing a preview");
    check_previewed(engine.catalog(), vm);  // somebody else may have ended it meanwhile
    co_return co_await start_end_of_preview(engine, std::string(undo_kind), vm, false, owner_uid);
}

async::Task<> recover_end_of_preview(Engine& engine, JobPtr job) {
    EndPreview operation(engine, std::move(job), false);
    co_await operation.recover();
}

}  // namespace volchain::storage
