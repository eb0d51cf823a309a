// SPDX-License-Identifier: MIT
#include "storage/end_backup.h"

#include "base/text.h"
#include "storage/backup_nodes.h"
#include "storage/backup_place.h"
#include "storage/checkpoints.h"
#include "storage/drop_bitmap.h"
#include "storage/presence.h"

namespace volchain::storage {
namespace {

enum class Outcome { finish, abort, fail };
constexpr auto enum_names(Outcome) {
    return std::to_array<EnumName<Outcome>>(
        {{Outcome::finish, "finish"}, {Outcome::abort, "abort"}, {Outcome::fail, "fail"}});
}

struct EndPlan {
    Outcome outcome = Outcome::abort;
    std::string why;  ///< of fail

    [[nodiscard]] Json json() const { return Json{{"outcome", word(outcome)}, {"why", why}}; }
    [[nodiscard]] static EndPlan parse(const JobRecord& job) {
        const JsonReader reader(job.plan, "plan of job " + job.id.str(), ErrorCode::internal);
        return {from_word<Outcome>(reader.at("outcome").string()).value_or(Outcome::abort),
                reader.at("why").string()};
    }
};

/// The disks of a backup in which its new checkpoint has a bitmap.
std::vector<Uuid> tracked_disks(const BackupRecord& record) {
    std::vector<Uuid> disks;
    for (const BackupDisk& disk : record.disks)
        if (disk.tracked) disks.push_back(disk.disk);
    return disks;
}

async::Task<> remove_files(Engine& engine, BackupRecord record) {
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

/// Nobody reaches the QEMU of a VM any more that was forgotten after the backup had failed.
async::Task<bool> can_be_reached(Engine& engine, Uuid vm) {
    if (!engine.catalog().has({ObjectKind::vm, vm})) co_return false;
    co_return co_await runs_or_is_gone(engine, vm);
}

/// A QEMU that is gone has taken everything with it.
async::Task<> end_in_qemu(Engine& engine, BackupRecord record) {
    const bool live = co_await can_be_reached(engine, record.vm);
    if (!live) co_return;
    BackupNodes nodes(engine, engine.vm(record.vm).session(), record);
    co_await nodes.remove();
    std::exception_ptr known_later;
    co_await async::keep_failure(engine.vm(record.vm).read_disks(), known_later);
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
        if (failure && !finished(job_->record().state)) co_await give_up(to_error(failure));
    }

  private:
    [[nodiscard]] const BackupRecord& record() const { return engine_.catalog().backup(id_); }

    /// Only what was held from the beginning to this moment is good.
    async::Task<> check() {
        co_await job_->undo_step("check");
        auto look = [socket = place_of_backup(engine_, id_).socket(), disks = record().disks.size()] {
            check_health(socket, disks);
        };
        std::exception_ptr failure;
        co_await async::keep_failure(engine_.files().run(std::move(look)), failure);
        if (!failure) co_return;
        plan_.outcome = Outcome::fail;
        plan_.why = to_error(failure).what();
        job_->set_plan(plan_.json());
    }

    async::Task<> forward() {
        co_await job_->undo_step("end");
        co_await end_in_qemu(engine_, record());
        if (plan_.outcome != Outcome::finish) {
            co_await job_->undo_step("drop");
            co_await drop_checkpoint(engine_, record());
        }
        co_await job_->undo_step("remove");
        co_await remove_files(engine_, record());
        co_await job_->undo_step("finish");
        co_await conclude();
    }

    [[nodiscard]] Changes without_exports() const {
        Changes changes;
        for (const BackupDisk& disk : record().disks)
            if (engine_.catalog().has({ObjectKind::exported, disk.exported}))
                changes.remove(ObjectKind::exported, disk.exported);
        return changes;
    }

    async::Task<> conclude() {
        Changes changes = without_exports();
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
        const bool tracked = !failed.checkpoint.empty();
        changes.put(std::move(failed));
        if (job_->record().kind != "finish-backup")
            co_return co_await job_->succeed(std::move(changes), std::move(result));
        Error reason(ErrorCode::qemu_failed, "{}{}; back it up anew", plan_.why,
                     tracked ? "; the new checkpoint was dropped" : "");
        co_await job_->fail(std::move(changes), std::move(reason));
    }

    async::Task<> give_up(Error reason) {
        BackupRecord left = record();
        left.state = BackupState::failed;
        left.problem = fmt::format("not all of it could be done away with: {}", reason.what());
        Changes changes;
        changes.put(std::move(left));
        reason =
            Error(reason.code(), "{}; not all of it could be done away with: abort it again", reason.what());
        co_await job_->fail(std::move(changes), std::move(reason));
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
    if (record.state == BackupState::ready) record.state = BackupState::ending;
    const std::string kind = plan.outcome == Outcome::finish ? "finish-backup" : "abort-backup";
    JobRequest job(kind, object, owner_uid);
    job.locks.push_back(object);
    job.plan = plan.json();
    job.changes.put(std::move(record));
    Operation operation = [&engine, plan](JobPtr started) { return run(engine, std::move(started), plan); };
    co_return co_await engine.jobs().start(std::move(job), std::move(operation));
}

}  // namespace

async::Task<Uuid> finish_backup(Engine& engine, Uuid id, std::uint32_t owner_uid) {
    EndPlan plan;
    plan.outcome = Outcome::finish;
    co_return co_await start(engine, id, std::move(plan), owner_uid);
}

async::Task<Uuid> abort_backup(Engine& engine, Uuid id, std::uint32_t owner_uid) {
    EndPlan plan;
    co_return co_await start(engine, id, std::move(plan), owner_uid);
}

async::Task<Uuid> fail_backup(Engine& engine, Uuid id, std::string why, std::uint32_t owner_uid) {
    EndPlan plan;
    plan.outcome = Outcome::fail;
    plan.why = std::move(why);
    co_return co_await start(engine, id, std::move(plan), owner_uid);
}

async::Task<> dismantle_backup(Engine& engine, BackupRecord record, bool drop) {
    co_await end_in_qemu(engine, record);
    if (drop) co_await drop_checkpoint(engine, record);
    co_await remove_files(engine, record);
}

/// From "check" on it was good only if that was found; it is asked again.
async::Task<> recover_end_backup(Engine& engine, JobPtr job) {
    EndPlan plan = EndPlan::parse(job->record());
    const std::string step = job->record().step;
    const bool checked = step != "record" && step != "check";
    EndBackup operation(engine, std::move(job), std::move(plan));
    co_await operation.run(checked);
}

std::vector<ObjectId> locks_of_end_backup(const JobRecord& job) {
    return {job.subject};
}

}  // namespace volchain::storage
