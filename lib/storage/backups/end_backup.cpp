// SPDX-License-Identifier: MIT
#include "storage/backups/end_backup.h"

#include "storage/backups/backup_nodes.h"
#include "storage/backups/backup_outcome.h"
#include "storage/backups/backup_place.h"
#include "storage/backups/end_restore.h"
#include "storage/checkpoints/checkpoints.h"
#include "storage/checkpoints/drop_bitmap.h"
#include "storage/exports/export_device.h"
#include "storage/exports/export_server.h"
#include "storage/exports/stop_export.h"
#include "storage/images/untouched_images.h"
#include "storage/jobs/presence.h"

namespace volchain::storage {
namespace {

/// How often the monitor may be lost while a backup is dismantled, before it is left to another abort.
constexpr int most_losses = 3;

/// The disks of a backup in which its new checkpoint has a bitmap.
std::vector<Uuid> tracked_disks(const BackupRecord& record) {
    std::vector<Uuid> disks;
    for (const BackupDisk& disk : record.disks)
        if (disk.tracked) disks.push_back(disk.disk);
    return disks;
}

async::Task<> remove_scratch_files(Engine& engine, BackupRecord record) {
    std::vector<ScratchFile> scratch;
    for (const BackupDisk& disk : record.disks)
        for (const char which : {'a', 'b'})
            if (engine.catalog().has({ObjectKind::volume, disk.volume}))
                scratch.push_back(scratch_of(engine.catalog(), record.id, disk, which));
    auto work = [scratch = std::move(scratch), place = place_of_backup(engine, record.id)] {
        for (const ScratchFile& file : scratch) remove_scratch(file);
        place.remove();
    };
    co_await engine.files().run(std::move(work));
}

async::Task<> remove_files(Engine& engine, BackupRecord record) {
    if (record.source == BackupSource::running)
        co_return co_await remove_scratch_files(engine, std::move(record));
    for (const BackupDisk& part : record.disks)
        if (part.exported) co_await remove_export_files(engine, part.exported);
}

/// Nobody reaches the QEMU of a VM any more that was forgotten after the backup had failed.
async::Task<bool> can_be_reached(Engine& engine, Uuid vm) {
    if (!engine.catalog().has({ObjectKind::vm, vm})) co_return false;
    co_return co_await runs_or_is_gone(engine, vm);
}

/// A QEMU that is gone, also while this goes on, has taken everything with it; another one has nothing of it.
async::Task<> end_in_qemu(Engine& engine, BackupRecord record) {
    for (int lost = 0;; ++lost) {
        const bool live = co_await can_be_reached(engine, record.vm);
        if (!live || appliance_process(engine, record.vm).mark != record.qemu) co_return;
        BackupNodes nodes(engine, engine.vm(record.vm).session(), record);
        std::exception_ptr failure;
        co_await async::keep_failure(nodes.remove(), failure);
        if (!failure) break;
        const bool out_of_reach = to_error(failure).code() == ErrorCode::unreachable;
        if (!out_of_reach || lost == most_losses) std::rethrow_exception(failure);
    }
    std::exception_ptr known_later;
    co_await async::keep_failure(engine.vm(record.vm).read_disks(), known_later);
}

/// The storage daemons that show images; of one that was never recorded there is nothing.
async::Task<> end_exports(Engine& engine, BackupRecord record) {
    for (const BackupDisk& part : record.disks) {
        if (!engine.catalog().has({ObjectKind::exported, part.exported})) continue;
        const ExportRecord shown = engine.catalog().exported(part.exported);
        co_await end_export(engine, shown, engine.exports().neglect(shown.id));
    }
}

async::Task<> end_reading(Engine& engine, BackupRecord record) {
    if (record.source == BackupSource::running) co_return co_await end_in_qemu(engine, std::move(record));
    co_await end_exports(engine, std::move(record));
}

async::Task<> drop_checkpoint(Engine& engine, BackupRecord record) {
    if (record.checkpoint.empty()) co_return;
    const bool live = co_await can_be_reached(engine, record.vm);
    (void)co_await drop_bitmap(engine, record.vm, live, tracked_disks(record), record.checkpoint);
}

class EndBackup {
  public:
    EndBackup(Engine& engine, JobPtr job, EndPlan plan)
        : engine_(engine), job_(std::move(job)), id_(job_->record().subject.id), plan_(std::move(plan)) {}

    /// `begun`: an earlier life of the daemon did.
    async::Task<> run(bool begun) {
        std::exception_ptr failure;
        if (plan_.outcome == Outcome::finish && !begun) co_await check();
        co_await async::keep_failure(forward(), failure);
        if (failure && !finished(job_->record().state))
            co_await leave_undone(engine_, job_, to_error(failure));
    }

  private:
    [[nodiscard]] const BackupRecord& record() const { return engine_.catalog().backup(id_); }

    /// Only what was held from the beginning to this moment is good.
    async::Task<> check() {
        co_await job_->undo_step("check");
        std::exception_ptr failure;
        co_await async::keep_failure(check_moment(engine_, record()), failure);
        if (!failure) co_return;
        plan_.outcome = Outcome::fail;
        plan_.why = to_error(failure).what();
        job_->set_plan(plan_.json());
    }

    async::Task<> forward() {
        co_await job_->undo_step("end");
        co_await end_reading(engine_, record());
        if (plan_.outcome != Outcome::finish) {
            co_await job_->undo_step("drop");
            co_await drop_checkpoint(engine_, record());
        }
        co_await job_->undo_step("remove");
        co_await remove_files(engine_, record());
        co_await job_->undo_step("finish");
        co_await conclude();
    }

    async::Task<> conclude() {
        Changes changes = without_exports_of(engine_.catalog(), id_);
        Json result = Json::object();
        if (plan_.outcome != Outcome::fail) {
            const auto checkpoint = CheckpointName::of_bitmap(record().checkpoint);
            if (plan_.outcome == Outcome::finish && checkpoint) result["checkpoint"] = checkpoint->name;
            changes.remove(ObjectKind::backup, id_);
            co_return co_await job_->succeed(std::move(changes), std::move(result));
        }
        BackupRecord failed = record();
        failed.state = BackupState::failed;
        failed.problem = plan_.why;
        if (!failed.checkpoint.empty()) failed.problem += "; the new checkpoint was dropped";
        Error reason(ErrorCode::qemu_failed, "{}; back it up anew", failed.problem);
        changes.put(std::move(failed));
        if (job_->record().kind == "finish-backup")
            co_await job_->fail(std::move(changes), std::move(reason));
        else
            co_await job_->succeed(std::move(changes), std::move(result));
    }

    Engine& engine_;
    JobPtr job_;
    Uuid id_;
    EndPlan plan_;
};

async::Task<> run(Engine& engine, JobPtr job, EndPlan plan) {
    EndBackup operation(engine, std::move(job), std::move(plan));
    co_await operation.run(false);
}

async::Task<Uuid> start(Engine& engine, Uuid id, EndPlan plan, std::uint32_t owner_uid) {
    BackupRecord record = engine.catalog().backup(id);
    const ObjectId object{ObjectKind::backup, id};
    if (plan.outcome == Outcome::finish && record.state == BackupState::failed)
        throw Error(ErrorCode::unsupported, "{} has failed: {}; abort it, and begin anew",
                    engine.catalog().describe(object), record.problem);
    const bool restores = record.restored.has_value();
    if (record.state == BackupState::ready) record.state = BackupState::ending;
    const std::string kind = plan.outcome == Outcome::finish ? "finish-backup" : "abort-backup";
    JobRequest job(kind, object, owner_uid);
    job.locks.push_back(object);
    job.plan = plan.json();
    job.changes.put(std::move(record));
    Operation operation = [&engine, plan, restores](JobPtr started) {
        if (restores) return end_restore(engine, std::move(started), plan);
        return run(engine, std::move(started), plan);
    };
    co_return co_await engine.jobs().start(std::move(job), std::move(operation));
}

}  // namespace

async::Task<> check_moment(Engine& engine, BackupRecord record) {
    if (record.source == BackupSource::down) co_return co_await check_untouched(engine, std::move(record));
    if (record.source == BackupSource::snapshot) co_return;
    auto look = [socket = place_of_backup(engine, record.id).socket(), disks = record.disks.size()] {
        check_health(socket, disks);
    };
    co_await engine.files().run(std::move(look));
}

async::Task<Uuid> finish_backup(Engine& engine, Uuid id, std::uint32_t owner_uid) {
    EndPlan plan(Outcome::finish);
    co_return co_await start(engine, id, std::move(plan), owner_uid);
}

async::Task<Uuid> abort_backup(Engine& engine, Uuid id, std::uint32_t owner_uid) {
    EndPlan plan(Outcome::abort);
    co_return co_await start(engine, id, std::move(plan), owner_uid);
}

async::Task<Uuid> fail_backup(Engine& engine, Uuid id, std::string why, std::uint32_t owner_uid) {
    EndPlan plan(Outcome::fail);
    plan.why = std::move(why);
    co_return co_await start(engine, id, std::move(plan), owner_uid);
}

async::Task<> dismantle_backup(Engine& engine, BackupRecord record, bool drop) {
    co_await end_reading(engine, record);
    if (drop) co_await drop_checkpoint(engine, record);
    co_await remove_files(engine, record);
}

Changes without_exports_of(const Catalog& catalog, const Uuid& backup) {
    Changes changes;
    for (const auto& [id, record] : catalog.exports())
        if (record.backup == backup) changes.remove(ObjectKind::exported, id);
    return changes;
}

/// From "check" on it was good only if that was found; it is asked again.
async::Task<> leave_undone(Engine& engine, JobPtr job, Error reason) {
    BackupRecord left = engine.catalog().backup(job->record().subject.id);
    left.state = BackupState::failed;
    left.problem = fmt::format("not all of it could be done away with: {}", reason.what());
    Changes changes;
    changes.put(std::move(left));
    Error told(reason.code(), "{}; not all of it could be done away with: abort it again", reason.what());
    co_await job->fail(std::move(changes), std::move(told));
}

async::Task<> recover_end_backup(Engine& engine, JobPtr job) {
    EndPlan plan = EndPlan::parse(job->record());
    if (engine.catalog().backup(job->record().subject.id).restored)
        co_return co_await recover_end_restore(engine, std::move(job), std::move(plan));
    const std::string step = job->record().step;
    const bool checked = step != "record" && step != "check";
    EndBackup operation(engine, std::move(job), std::move(plan));
    co_await operation.run(checked);
}

std::vector<ObjectId> locks_of_end_backup(const JobRecord& job) {
    return {job.subject};
}

}  // namespace volchain::storage
