// SPDX-License-Identifier: MIT
#include "storage/backups/restore_disk.h"

#include "base/text.h"
#include "storage/backups/end_backup.h"
#include "storage/backups/end_restore.h"
#include "storage/backups/restored_image.h"
#include "storage/disks/create_disk.h"
#include "storage/exports/export_server.h"

namespace volchain::storage {
namespace {

struct RestorePlan {
    Uuid backup;
    Uuid exported;

    [[nodiscard]] Json json() const { return Json{{"backup", backup.str()}, {"export", exported.str()}}; }
    [[nodiscard]] static RestorePlan parse(const JobRecord& job) {
        const JsonReader reader(job.plan, "plan of job " + job.id.str(), ErrorCode::internal);
        return {id_in(reader.at("backup")), id_in(reader.at("export"))};
    }
};

class RestoreDisk {
  public:
    RestoreDisk(Engine& engine, JobPtr job)
        : engine_(engine), job_(std::move(job)), plan_(RestorePlan::parse(job_->record())) {}

    async::Task<> run(RestoreRequest request) {
        std::exception_ptr failure;
        const std::string name = request.name;
        co_await async::keep_failure(forward(std::move(request)), failure);
        if (failure && !finished(job_->record().state))
            co_await undo(to_error(failure).during("disk " + quote(name)));
    }

    async::Task<> undo(Error reason) {
        co_await job_->begin_undo();
        if (daemon_) engine_.exports().attend(plan_.exported, Exports::Daemons(1, std::move(daemon_)));
        std::exception_ptr failure;
        co_await async::keep_failure(remove_restored(engine_, record()), failure);
        Changes changes;
        if (failure) {
            reason = Error(reason.code(), "{}; not all of it could be undone: {}; abort it", reason.what(),
                           to_error(failure).what());
            BackupRecord left = record();
            left.state = BackupState::failed;
            left.problem = reason.what();
            changes.put(std::move(left));
        } else {
            changes = without_exports_of(engine_.catalog(), plan_.backup);
            changes.remove(ObjectKind::backup, plan_.backup);
        }
        co_await job_->fail(std::move(changes), std::move(reason));
    }

  private:
    [[nodiscard]] const BackupRecord& record() const { return engine_.catalog().backup(plan_.backup); }

    async::Task<> forward(RestoreRequest request) {
        const RestoredDisk disk = record().restored.value();
        const NewFile file = file_of_restored(engine_.catalog(), disk);
        co_await job_->step("file");
        auto make = [file, &settings = engine_.settings()] { make_image_file(file, settings); };
        co_await engine_.files().run(std::move(make));
        co_await job_->step("format");
        co_await format_new_file(engine_, job_, request.image, file);
        co_await job_->step("server");
        co_await start_server(std::move(request), file);
        co_await job_->step("graph");
        const std::string node = co_await open_restored_image(engine_, daemon_->session(), disk);
        co_await job_->step("show");
        const ExportRecord shown = engine_.catalog().exported(plan_.exported);
        std::string no_bitmap;
        co_await show_over_nbd(engine_, daemon_->session(), shown, node, std::move(no_bitmap));
        co_await job_->step("finish");
        co_await finish();
    }

    async::Task<> start_server(RestoreRequest request, NewFile file) {
        std::vector<ImageAccess> images;
        images.emplace_back(file.path(), true);
        ExportServerOptions options(co_await identity_for(engine_, images));
        options.max_connections = request.shown.max_connections;
        options.tls_credentials = request.shown.tls_credentials;
        options.images = std::move(images);
        ExportRecord shown = engine_.catalog().exported(plan_.exported);
        StartedExportServer started = co_await start_export_server(engine_, shown, std::move(options));
        daemon_ = started.process.daemon;
        // From now on it is also found where it does not answer.
        shown.server = started.process.mark;
        shown.address = started.address;
        Changes changes;
        changes.put(std::move(shown));
        co_await engine_.catalog().commit(std::move(changes), Durability::process);
    }

    async::Task<> finish() {
        job_->no_return();
        BackupRecord ready = record();
        ready.state = BackupState::ready;
        ExportRecord shown = engine_.catalog().exported(plan_.exported);
        shown.state = ExportState::ready;
        Json result;
        result["backup"] = object_json({ObjectKind::backup, plan_.backup});
        result["export"] = object_json({ObjectKind::exported, plan_.exported});
        result["uri"] = uri_of_export(engine_, shown);
        Changes changes;
        changes.put(std::move(ready)).put(std::move(shown));
        engine_.exports().attend(plan_.exported, Exports::Daemons(1, std::move(daemon_)));
        co_await job_->succeed(std::move(changes), std::move(result));
        engine_.exports().look();
    }

    Engine& engine_;
    JobPtr job_;
    RestorePlan plan_;
    std::shared_ptr<qmp::StorageDaemon> daemon_;
};

async::Task<> run(Engine& engine, JobPtr job, RestoreRequest request) {
    RestoreDisk operation(engine, std::move(job));
    co_await operation.run(std::move(request));
}

BackupRecord new_restore(const RestoreRequest& request) {
    RestoredDisk disk;
    disk.disk = Uuid::make();
    disk.volume = Uuid::make();
    disk.name = request.name;
    disk.pool = request.pool;
    disk.file = image_file_name(request.name, disk.volume, request.image.format);
    disk.format = request.image.format;
    disk.size = request.image.size;
    disk.sparse = request.image.preallocation == Preallocation::off ||
                  request.image.preallocation == Preallocation::metadata;
    BackupRecord record;
    record.id = Uuid::make();
    record.state = BackupState::starting;
    record.created = now();
    record.owner_uid = request.shown.owner_uid;
    record.allowed_uid = request.shown.allowed_uid;
    record.caller = request.shown.caller;
    record.restored = std::move(disk);
    return record;
}

}  // namespace

async::Task<Uuid> restore_disk(Engine& engine, RestoreRequest request) {
    (void)engine.catalog().pool(request.pool);
    check_name("disk", request.name);
    check_image_options(request.image);
    check_disk_name_free(engine.catalog(), request.name);
    check_export_request(engine, request.shown);
    const Catalog::DiskNameClaim claim(engine.catalog(), request.name);
    BackupRecord record = new_restore(request);
    ExportRecord shown = new_export(request.shown);
    // It ends with the restore, which knows the caller.
    shown.caller.clear();
    shown.backup = record.id;
    const RestorePlan plan{record.id, shown.id};
    JobRequest job("restore-disk", {ObjectKind::pool, request.pool}, request.shown.owner_uid);
    job.locks.push_back({ObjectKind::backup, record.id});
    job.plan = plan.json();
    job.changes.put(std::move(record)).put(std::move(shown));
    Operation operation = [&engine, request](JobPtr started) {
        return run(engine, std::move(started), request);
    };
    co_return co_await engine.jobs().start(std::move(job), std::move(operation));
}

async::Task<> recover_restore_disk(Engine& engine, JobPtr job) {
    const std::string step = job->record().step;
    RestoreDisk operation(engine, std::move(job));
    co_await operation.undo(
        Error(ErrorCode::interrupted, "the daemon ended at step {}; nothing is restored", step));
}

std::vector<ObjectId> locks_of_restore_disk(const JobRecord& job) {
    return {{ObjectKind::backup, RestorePlan::parse(job).backup}};
}

}  // namespace volchain::storage
