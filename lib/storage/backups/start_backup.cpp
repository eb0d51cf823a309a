// SPDX-License-Identifier: MIT
#include "storage/backups/start_backup.h"

#include "base/text.h"
#include "storage/backups/backup_plan.h"
#include "storage/backups/end_backup.h"
#include "storage/backups/moment_holder.h"
#include "storage/checkpoints/checkpoints.h"
#include "storage/exports/shown_volume.h"
#include "storage/jobs/presence.h"
#include "storage/records/preview_state.h"
#include "storage/vms/live_chain.h"

namespace volchain::storage {
namespace {

/// What recovery needs.
struct StartPlan {
    Uuid backup;
    BackupSource source = BackupSource::running;
    bool compress = false;
    std::vector<PushedFile> files;  ///< of push: one for each disk

    [[nodiscard]] Json json() const {
        Json plan{{"backup", backup.str()},
                  {"source", word(source)},
                  {"compress", compress},
                  {"files", Json::array()}};
        for (const PushedFile& file : files) plan["files"].push_back(file.json());
        return plan;
    }
    [[nodiscard]] static StartPlan parse(const JobRecord& job) {
        const JsonReader reader(job.plan, "plan of job " + job.id.str(), ErrorCode::internal);
        StartPlan plan;
        plan.backup = id_in(reader.at("backup"));
        plan.source =
            from_word<BackupSource>(reader.string_or("source", "running")).value_or(BackupSource::running);
        plan.compress = reader.at("compress").boolean();
        for (const JsonReader& file : reader.at("files").elements())
            plan.files.push_back(PushedFile::parse(file));
        return plan;
    }
};

class StartBackup {
  public:
    StartBackup(Engine& engine, JobPtr job)
        : engine_(engine), job_(std::move(job)), plan_(StartPlan::parse(job_->record())), id_(plan_.backup) {}

    async::Task<> run(HoldOptions options) {
        holder_ = plan_.source == BackupSource::running ? holder_of_running(engine_, job_, id_)
                                                        : holder_of_stored(engine_, job_, id_);
        std::exception_ptr failure;
        co_await async::keep_failure(forward(options), failure);
        if (failure && !finished(job_->record().state)) co_await give_up(to_error(failure));
    }

    async::Task<> recover() {
        const std::string step = job_->record().step;
        if (step == "publish" || step == "end") {
            std::exception_ptr failure;
            co_await async::keep_failure(conclude_push(), failure);
            if (failure && !finished(job_->record().state)) co_await give_up(to_error(failure));
            co_return;
        }
        Error reason(ErrorCode::interrupted, "the daemon ended at step {}; there is no backup",
                     job_->record().step);
        co_await undo(std::move(reason));
    }

  private:
    [[nodiscard]] const BackupRecord& record() const { return engine_.catalog().backup(id_); }

    async::Task<> forward(HoldOptions options) {
        held_ = co_await holder_->hold(options);
        if (!plan_.files.empty()) {
            co_await note_moment();
            co_await holder_->push(plan_.files, plan_.compress);
            job_->no_return();
            co_return co_await conclude_push();
        }
        std::vector<ExportRecord> exports = co_await holder_->show();
        co_await job_->step("finish");
        job_->no_return();
        co_await finish(std::move(exports));
    }

    [[nodiscard]] BackupRecord with_moment() const {
        BackupRecord held = record();
        held.consistency = held_.consistency;
        held.moment = held_.moment;
        return held;
    }

    /// While it is copied it can be asked for; and after a crash nobody else knows it.
    async::Task<> note_moment() {
        Changes changes;
        changes.put(with_moment());
        co_await engine_.catalog().commit(std::move(changes), Durability::process);
    }

    async::Task<> finish(std::vector<ExportRecord> exports) {
        BackupRecord ready = with_moment();
        ready.state = BackupState::ready;
        Changes changes;
        for (ExportRecord& shown : exports) changes.put(std::move(shown));
        changes.put(std::move(ready));
        held_.result["backup"] = object_json({ObjectKind::backup, id_});
        const Uuid vm = record().vm;
        holder_->let_go();
        co_await job_->succeed(std::move(changes), std::move(held_.result));
        engine_.backups().vm_changed(vm);
    }

    /// All is there.
    async::Task<> conclude_push() {
        co_await job_->step_through("publish");
        co_await name_pushed_files(engine_, plan_.files);
        co_await job_->step_through("end");
        co_await dismantle_backup(engine_, record(), false);
        Json result = held_.result;
        result["files"] = Json::array();
        for (const PushedFile& file : plan_.files) result["files"].push_back(file.path());
        const auto checkpoint = CheckpointName::of_bitmap(record().checkpoint);
        if (checkpoint) result["checkpoint"] = checkpoint->name;
        result["moment-usec"] = to_usec(record().moment);
        Changes changes;
        changes.remove(ObjectKind::backup, id_);
        co_await job_->succeed(std::move(changes), std::move(result));
    }

    /// Files that have their names are a backup; what else is left of it goes with the record.
    async::Task<> give_up(Error reason) {
        if (job_->record().step != "end") co_return co_await undo(std::move(reason));
        if (reason.code() == ErrorCode::cancelled) throw reason;  // shutting down: recovery goes on with it
        BackupRecord left = record();
        left.state = BackupState::failed;
        left.problem = fmt::format(
            "its files are complete, but not all of what served to make them could be done away with: {}",
            reason.what());
        Changes changes;
        Error told(reason.code(), "{}; abort it, which drops its checkpoint", left.problem);
        changes.put(std::move(left));
        co_await job_->fail(std::move(changes), std::move(told));
    }

    async::Task<> undo(Error reason) {
        co_await job_->begin_undo();
        std::exception_ptr failure;
        co_await async::keep_failure(take_back(), failure);
        Changes changes;
        if (failure) {
            reason = Error(reason.code(), "{}; not all of it could be undone: {}; abort the backup",
                           reason.what(), to_error(failure).what());
            BackupRecord left = record();
            left.state = BackupState::failed;
            left.problem = reason.what();
            changes.put(std::move(left));
        } else {
            changes = without_exports_of(engine_.catalog(), id_);
            changes.remove(ObjectKind::backup, id_);
        }
        co_await job_->fail(std::move(changes), std::move(reason));
    }

    async::Task<> take_back() {
        holder_.reset();
        co_await dismantle_backup(engine_, record(), true);
        co_await remove_parts(engine_, plan_.files);
    }

    Engine& engine_;
    JobPtr job_;
    StartPlan plan_;
    Uuid id_;
    std::unique_ptr<MomentHolder> holder_;
    HeldMoment held_;
};

/// Beside what is asked for in the record.
struct StartOptions {
    explicit StartOptions(HoldOptions how) : hold(how) {}

    HoldOptions hold;
    std::uint64_t speed = 0;
    std::shared_ptr<Holds::Hold> volumes;  ///< what is read by a job that is all of the backup
};

async::Task<> run(Engine& engine, JobPtr job, StartOptions options) {
    job->start_speed(options.speed);
    StartBackup operation(engine, std::move(job));
    co_await operation.run(options.hold);
}

/// That which begins at the backup's moment: made with it, or with the snapshot.
async::Task<std::optional<CheckpointName>> checkpoint_of(Engine& engine, BackupRecord record) {
    const auto made = CheckpointName::of_bitmap(record.checkpoint);
    if (made || record.snapshot.nil()) co_return made;
    co_await look_at_checkpoints(engine, record.vm);
    co_return checkpoint_at(engine, record.vm, engine.catalog().snapshot(record.snapshot).created);
}

async::Task<> plan_push(Engine& engine, PushTarget target, StartPlan& plan, BackupRecord& record) {
    std::vector<std::string> names;
    for (const BackupDisk& disk : record.disks) names.push_back(engine.catalog().disk(disk.disk).name);
    const std::optional<CheckpointName> moment = co_await checkpoint_of(engine, record);
    auto work = [names = std::move(names), target, moment, planned = record]() mutable {
        std::vector<PushedFile> files = plan_files(names, target, moment, planned);
        return std::make_pair(std::move(files), std::move(planned));
    };
    auto [files, planned] = co_await engine.files().run(std::move(work));
    plan.files = std::move(files);
    plan.compress = target.compress;
    record = std::move(planned);
}

/// The exports of images are recorded before there is anything of them.
std::vector<ExportRecord> exports_to_make(const BackupRecord& backup) {
    std::vector<ExportRecord> exports;
    for (const BackupDisk& part : backup.disks) {
        if (part.exported.nil() || backup.source == BackupSource::running) continue;
        ExportRecord& shown = exports.emplace_back(export_of_backup(backup, part));
        shown.state = ExportState::starting;
    }
    return exports;
}

std::vector<Uuid> all_layers(const Catalog& catalog, const BackupRecord& record) {
    std::vector<Uuid> layers;
    for (const BackupDisk& part : record.disks)
        for (const Uuid& volume : catalog.chain(part.volume)) layers.push_back(volume);
    return layers;
}

/// With the record of the job, in one commit. Others find the volumes held from here on: first by the claims, then by the records.
async::Task<Uuid> begin(Engine& engine, BackupRequest request, StartPlan plan, BackupRecord record,
                        std::vector<ObjectId> locks) {
    StartOptions options(HoldOptions(request.quiesce.value_or(QuiesceMode::automatic)));
    options.hold.freeze_timeout = request.freeze_timeout.value_or(engine.settings().freeze_timeout);
    options.speed = request.speed;
    if (request.push && record.source != BackupSource::running) {
        Holds::Hold hold = engine.holds().take(all_layers(engine.catalog(), record), "a backup");
        options.volumes = std::make_shared<Holds::Hold>(std::move(hold));
    }
    JobRequest job("start-backup", {ObjectKind::vm, request.vm}, request.owner_uid);
    job.locks = std::move(locks);
    job.locks.push_back({ObjectKind::backup, record.id});
    job.plan = plan.json();
    std::vector<std::unique_ptr<Catalog::ExportClaim>> claims;
    for (ExportRecord& shown : exports_to_make(record)) {
        claims.push_back(std::make_unique<Catalog::ExportClaim>(engine.catalog(), shown));
        job.changes.put(std::move(shown));
    }
    job.changes.put(std::move(record));
    Operation operation = [&engine, options](JobPtr started) {
        return run(engine, std::move(started), options);
    };
    co_return co_await engine.jobs().start(std::move(job), std::move(operation));
}

async::Task<> plan_files_of(Engine& engine, BackupRequest request, StartPlan& plan, BackupRecord& record) {
    plan.backup = record.id;
    plan.source = record.source;
    check_plan(engine.catalog(), request, record);
    if (!request.push) co_return;
    co_await plan_push(engine, *request.push, plan, record);
    check_plan(engine.catalog(), request, record);
}

async::Task<Uuid> start_of_vm(Engine& engine, BackupRequest request) {
    const bool live = co_await engine.ready_to_work(request.vm);
    if (!live && request.quiesce == QuiesceMode::require)
        throw Error(ErrorCode::not_running, "{} is down: there is no guest to freeze (and no need to)",
                    engine.catalog().describe({ObjectKind::vm, request.vm}));
    check_no_preview(engine.catalog(), request.vm);
    std::vector<ObjectId> locks{{ObjectKind::vm, request.vm}};
    for (const WantedDisk& wanted : disks_to_back_up(engine.catalog(), request))
        locks.push_back({ObjectKind::disk, wanted.disk});
    // What is found is still so when the job begins: nobody else gets a turn between the two.
    auto held = engine.locks().take(locks, "being prepared for a backup", Uuid{});
    co_await look_at_checkpoints(engine, request.vm);
    BackupRecord record;
    if (live)
        record = co_await plan_running_backup(engine, request);
    else
        record = plan_stored_backup(engine, request);
    StartPlan plan;
    co_await plan_files_of(engine, request, plan, record);
    held.release();
    co_return co_await begin(engine, std::move(request), std::move(plan), std::move(record),
                             std::move(locks));
}

/// The VM has nothing to do with it: nothing of it is locked.
async::Task<Uuid> start_of_snapshot(Engine& engine, BackupRequest request) {
    const Catalog& catalog = engine.catalog();
    std::vector<WantedDisk> disks = disks_to_back_up(catalog, request);
    for (const WantedDisk& wanted : disks) co_await inspect_layers(engine, wanted.volume);
    // A merge may have been faster.
    disks = disks_to_back_up(catalog, request);
    BackupRecord record = plan_stored_backup(engine, request);
    StartPlan plan;
    co_await plan_files_of(engine, request, plan, record);
    for (const BackupDisk& part : record.disks) {
        if (volume_of_snapshot(catalog, request.snapshot, part.disk) != part.volume)
            throw Error(ErrorCode::busy, "{} has just been changed by a merge; ask again",
                        catalog.describe({ObjectKind::snapshot, request.snapshot}));
        check_immutable(catalog, part.volume);
        check_nobody_changes(engine, catalog.chain(part.volume));
    }
    std::vector<ObjectId> no_locks;
    co_return co_await begin(engine, std::move(request), std::move(plan), std::move(record),
                             std::move(no_locks));
}

}  // namespace

async::Task<Uuid> start_backup(Engine& engine, BackupRequest request) {
    (void)engine.catalog().vm(request.vm);
    check_backup_request(engine.catalog(), request);
    if (request.snapshot) co_return co_await start_of_snapshot(engine, std::move(request));
    co_return co_await start_of_vm(engine, std::move(request));
}

async::Task<> recover_start_backup(Engine& engine, JobPtr job) {
    StartBackup operation(engine, std::move(job));
    co_await operation.recover();
}

/// The record locks the disks.
std::vector<ObjectId> locks_of_start_backup(const JobRecord& job) {
    const StartPlan plan = StartPlan::parse(job);
    std::vector<ObjectId> objects{{ObjectKind::backup, plan.backup}};
    if (plan.source != BackupSource::snapshot) objects.push_back(job.subject);
    return objects;
}

}  // namespace volchain::storage
