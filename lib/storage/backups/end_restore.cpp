// SPDX-License-Identifier: MIT
#include "storage/backups/end_restore.h"

#include "storage/backups/end_backup.h"
#include "storage/backups/restored_image.h"
#include "storage/exports/export_server.h"
#include "storage/exports/stop_export.h"

namespace volchain::storage {
namespace {

/// Nil where it has none.
Uuid export_of_restore(const Catalog& catalog, const Uuid& restore) {
    for (const auto& [id, record] : catalog.exports())
        if (record.backup == restore) return id;
    return {};
}

async::Task<> end_export_of(Engine& engine, Uuid restore) {
    const Uuid id = export_of_restore(engine.catalog(), restore);
    if (id.nil()) co_return;
    const ExportRecord shown = engine.catalog().exported(id);
    co_await end_export(engine, shown, engine.exports().neglect(id));
}

class EndRestore {
  public:
    EndRestore(Engine& engine, JobPtr job, EndPlan plan)
        : engine_(engine), job_(std::move(job)), id_(job_->record().subject.id), plan_(std::move(plan)) {}

    async::Task<> run() {
        if (plan_.outcome == Outcome::finish) co_return co_await finish(false);
        co_await remove();
    }

    async::Task<> recover() {
        const std::string step = job_->record().step;
        const bool flushed = step == "close" || step == "check" || step == "finish";
        if (plan_.outcome == Outcome::finish) co_return co_await finish(flushed);
        co_await remove();
    }

  private:
    [[nodiscard]] const BackupRecord& record() const { return engine_.catalog().backup(id_); }

    async::Task<> finish(bool flushed) {
        std::exception_ptr failure;
        co_await async::keep_failure(forward(flushed), failure);
        if (!failure || finished(job_->record().state)) co_return;
        reason_ = to_error(failure);
        plan_.outcome = Outcome::fail;
        plan_.why = reason_->what();
        job_->set_plan(plan_.json());
        co_await remove();
    }

    async::Task<> forward(bool flushed) {
        if (!flushed) {
            co_await job_->undo_step("flush");
            co_await flush();
        }
        co_await job_->undo_step("close");
        co_await end_export_of(engine_, id_);
        co_await job_->undo_step("check");
        VolumeFacts facts = co_await check_restored_image(engine_, record().restored.value());
        co_await job_->undo_step("finish");
        const Uuid exported = export_of_restore(engine_.catalog(), id_);
        if (exported) co_await remove_export_files(engine_, exported);
        co_await make_disk(std::move(facts));
    }

    async::Task<> flush() {
        const ExportRecord shown = engine_.catalog().exported(export_of_restore(engine_.catalog(), id_));
        Exports::Daemons daemons = engine_.exports().neglect(shown.id);
        if (daemons.empty()) daemons.push_back(co_await find_export_server(engine_, shown));
        const auto session = daemons.front()->session();
        const RestoredDisk disk = record().restored.value();
        // Attended again, so that whatever comes now finds the process.
        engine_.exports().attend(shown.id, std::move(daemons));
        co_await show_no_more(engine_, session);
        co_await make_restored_read_only(engine_, session, disk);
    }

    async::Task<> make_disk(VolumeFacts facts) {
        const RestoredDisk made = record().restored.value();
        DiskRecord disk;
        disk.id = made.disk;
        disk.name = made.name;
        disk.active = made.volume;
        VolumeRecord volume{made.volume, made.disk, made.pool, made.file, made.format, now()};
        Changes changes = without_exports_of(engine_.catalog(), id_);
        changes.put(std::move(disk)).put(std::move(volume)).remove(ObjectKind::backup, id_);
        Json result;
        result["disk"] = object_json({ObjectKind::disk, made.disk});
        result["volume"] = object_json({ObjectKind::volume, made.volume});
        engine_.catalog().set_facts(made.volume, std::move(facts));
        co_await job_->succeed(std::move(changes), std::move(result));
    }

    async::Task<> remove() {
        std::exception_ptr failure;
        co_await async::keep_failure(take_away(), failure);
        if (failure && !finished(job_->record().state))
            co_await leave_undone(engine_, job_, to_error(failure));
    }

    async::Task<> take_away() {
        co_await job_->undo_step("end");
        co_await end_export_of(engine_, id_);
        co_await job_->undo_step("remove");
        co_await remove_restored(engine_, record());
        co_await job_->undo_step("finish");
        Changes changes = without_exports_of(engine_.catalog(), id_);
        if (plan_.outcome == Outcome::abort) {
            changes.remove(ObjectKind::backup, id_);
            co_return co_await job_->succeed(std::move(changes), Json::object());
        }
        BackupRecord failed = record();
        failed.state = BackupState::failed;
        failed.problem = plan_.why;
        changes.put(std::move(failed));
        if (job_->record().kind != "finish-backup")
            co_return co_await job_->succeed(std::move(changes), Json::object());
        const ErrorCode code = reason_ ? reason_->code() : ErrorCode::qemu_failed;
        Error reason(code, "{}; nothing is left of it: restore it anew", plan_.why);
        co_await job_->fail(std::move(changes), std::move(reason));
    }

    Engine& engine_;
    JobPtr job_;
    Uuid id_;
    EndPlan plan_;
    std::optional<Error> reason_;  ///< for which it cannot be finished
};

}  // namespace

async::Task<> end_restore(Engine& engine, JobPtr job, EndPlan plan) {
    EndRestore operation(engine, std::move(job), std::move(plan));
    co_await operation.run();
}

async::Task<> recover_end_restore(Engine& engine, JobPtr job, EndPlan plan) {
    EndRestore operation(engine, std::move(job), std::move(plan));
    co_await operation.recover();
}

async::Task<> remove_restored(Engine& engine, BackupRecord record) {
    co_await end_export_of(engine, record.id);
    const Uuid exported = export_of_restore(engine.catalog(), record.id);
    if (exported) co_await remove_export_files(engine, exported);
    auto work = [file = file_of_restored(engine.catalog(), record.restored.value())] {
        remove_image_file(file);
    };
    co_await engine.files().run(std::move(work));
}

}  // namespace volchain::storage
