// SPDX-License-Identifier: MIT
#include "storage/exports/export_volume.h"

#include "storage/checkpoints/checkpoints.h"
#include "storage/checkpoints/export_bitmap.h"
#include "storage/exports/export_device.h"
#include "storage/exports/export_mount.h"
#include "storage/exports/export_server.h"
#include "storage/exports/shown_volume.h"
#include "storage/exports/stop_export.h"
#include "storage/jobs/presence.h"
#include "storage/qemu/helper.h"
#include "storage/vms/live_chain.h"

namespace volchain::storage {
namespace {

ExportRecord new_record(const Catalog& catalog, const Uuid& volume, const Uuid& snapshot,
                        const ExportRequest& request) {
    ExportRecord record = new_export(request);
    record.volume = volume;
    record.disk = catalog.volume(volume).disk;
    record.snapshot = snapshot;
    return record;
}

// --- the operation -----------------------------------------------------------------------------------------

Uuid export_of(const JobRecord& job) {
    return id_in(JsonReader(job.plan, "plan of job " + job.id.str(), ErrorCode::internal).at("export"));
}

class ExportVolume {
  public:
    ExportVolume(Engine& engine, JobPtr job)
        : engine_(engine), job_(std::move(job)), id_(export_of(job_->record())) {}

    async::Task<> run(ExportRequest request) {
        std::exception_ptr failure;
        co_await async::keep_failure(forward(std::move(request)), failure);
        if (!failure || finished(job_->record().state)) co_return;
        if (unknown_)
            co_await settle(to_error(failure));
        else
            co_await undo(to_error(failure));
    }

    async::Task<> recover() {
        Error reason(ErrorCode::interrupted, "the daemon ended at step {}; nothing is exported",
                     job_->record().step);
        if (record().kind == ExportKind::device)
            co_await settle(std::move(reason));
        else
            co_await undo(std::move(reason));
    }

  private:
    [[nodiscard]] const ExportRecord& record() const { return engine_.catalog().exported(id_); }

    async::Task<> forward(ExportRequest request) {
        co_await job_->step("files");
        const async::Identity owner = co_await who_opens_images();
        if (request.writable) co_await make_overlay(owner);
        if (request.kind == ExportKind::device)
            co_await show_as_device();
        else
            co_await show_as_server(std::move(request), owner);
        co_await job_->step("finish");
        co_await finish();
    }

    /// As whom the process runs that is to open the images.
    async::Task<async::Identity> who_opens_images() {
        if (record().kind == ExportKind::device)
            co_return appliance_process(engine_, record().appliance).identity;
        const Catalog& catalog = engine_.catalog();
        std::vector<ImageAccess> images;
        for (const Uuid& volume : catalog.chain(record().volume))
            images.emplace_back(catalog.path(catalog.volume(volume)), false);
        co_return co_await identity_for(engine_, std::move(images));
    }

    async::Task<> make_overlay(async::Identity owner) {
        const Catalog& catalog = engine_.catalog();
        const VolumeRecord& volume = catalog.volume(record().volume);
        auto work = [place = place_of_export(engine_, id_), size = catalog.facts(volume.id).size,
                     below = catalog.path(volume), format = volume.format,
                     owner] { place.make_overlay(size, below, format, owner); };
        co_await engine_.files().run(std::move(work));
    }

    async::Task<> put_record(ExportRecord changed) {
        Changes changes;
        changes.put(std::move(changed));
        co_await engine_.catalog().commit(std::move(changes), Durability::process);
    }

    // --- over NBD, and as a file on top of that ---

    async::Task<> show_as_server(ExportRequest request, async::Identity owner) {
        co_await job_->step("server");
        co_await start_server(request, owner);
        co_await job_->step("graph");
        const auto session = daemons_.front()->session();
        const std::string node = co_await open_export_layers(engine_, session, record());
        std::string bitmap;
        if (!request.since.empty()) {
            std::string since = bitmap_meant(engine_.catalog().facts(record().volume), request.since);
            bitmap = co_await add_bitmap(node, std::move(since));
        }
        co_await job_->step("show");
        co_await show_over_nbd(engine_, session, record(), node, bitmap);
        if (request.kind == ExportKind::file) co_await mount();
    }

    async::Task<> start_server(ExportRequest request, async::Identity owner) {
        ExportServerOptions options(owner);
        options.max_connections = request.max_connections;
        options.tls_credentials = request.tls_credentials;
        const ExportRecord before = record();
        const StartedExportServer started = co_await start_export_server(engine_, before, std::move(options));
        daemons_.push_back(started.process.daemon);
        // From now on it is also found where it does not answer.
        ExportRecord changed = before;
        changed.server = started.process.mark;
        changed.address = started.address;
        co_await put_record(std::move(changed));
    }

    async::Task<std::string> add_bitmap(std::string node, std::string since) {
        const std::string top = plan_layers(engine_.catalog(), id_, record().volume).front().node;
        const std::string name =
            co_await add_merged_bitmap(daemons_.front()->session(), std::move(node), top, std::move(since),
                                       async::after(engine_.settings().command_timeout));
        ExportRecord changed = record();
        changed.bitmap = "qemu:dirty-bitmap:" + name;
        co_await put_record(std::move(changed));
        co_return name;
    }

    async::Task<> mount() {
        co_await job_->step("mounter");
        const ExportProcess mounter = co_await start_export_mount(engine_, record());
        daemons_.push_back(mounter.daemon);
        ExportRecord changed = record();
        changed.mounter = mounter.mark;
        co_await put_record(std::move(changed));
        co_await job_->step("mount");
        co_await mount_export(engine_, mounter.daemon, record());
    }

    // --- as a device ---

    async::Task<> show_as_device() {
        co_await job_->step("graph");
        co_await open_in_appliance(engine_, record());
        co_await job_->step("show");
        job_->no_return();
        unknown_ = true;
        try {
            co_await plug_into_appliance(engine_, record());
        } catch (const qmp::CommandError&) {
            unknown_ = false;  // QEMU refused, and changed nothing
            throw;
        }
    }

    /// Nobody knows whether the appliance has the device.
    async::Task<> settle(Error reason) {
        (void)co_await runs_or_is_gone(engine_, record().appliance);
        const ExportRecord shown = record();
        const bool there = appliance_is_there(engine_, shown);
        const bool has_it = there && co_await has_export_device(engine_, shown);
        if (!has_it) co_return co_await undo(std::move(reason));
        job_->log().notice("the appliance has the device; the export is finished");
        co_await job_->step_through("finish");
        co_await finish();
    }

    // --- the end ---

    async::Task<> finish() {
        job_->no_return();
        ExportRecord shown = record();
        shown.state = ExportState::ready;
        Json result;
        result["export"] = object_json({ObjectKind::exported, id_});
        const std::string uri = uri_of_export(engine_, shown);
        if (!uri.empty()) result["uri"] = uri;
        if (shown.kind == ExportKind::file) result["path"] = place_of_export(engine_, id_).file();
        if (shown.kind == ExportKind::device) result["device"] = shown.serial;
        Changes changes;
        changes.put(std::move(shown));
        engine_.exports().attend(id_, std::move(daemons_));
        co_await job_->succeed(std::move(changes), std::move(result));
        engine_.exports().look();
    }

    async::Task<> undo(Error reason) {
        co_await job_->begin_undo();
        std::exception_ptr failure;
        Exports::Daemons attended = engine_.exports().neglect(id_);
        if (daemons_.empty()) daemons_ = std::move(attended);
        failure = nullptr;
        co_await async::keep_failure(remove_all(), failure);
        Changes changes;
        if (failure) {
            reason = Error(
                reason.code(),
                "{}; not all of it could be undone: {}; it is tried again, also when you stop the export",
                reason.what(), to_error(failure).what());
            ExportRecord left = record();
            left.state = ExportState::lost;
            changes.put(std::move(left));
        } else {
            changes.remove(ObjectKind::exported, id_);
        }
        co_await job_->fail(std::move(changes), std::move(reason));
        if (failure) engine_.exports().end(id_, "it was not made");
    }

    async::Task<> remove_all() {
        co_await end_export(engine_, record(), std::move(daemons_));
        co_await remove_export_files(engine_, id_);
    }

    Engine& engine_;
    JobPtr job_;
    Uuid id_;
    Exports::Daemons daemons_;
    bool unknown_ = false;  ///< whether the appliance has the device
};

async::Task<> run(Engine& engine, JobPtr job, ExportRequest request) {
    ExportVolume operation(engine, std::move(job));
    co_await operation.run(std::move(request));
}

/// So that it is known whether it runs now.
async::Task<> look_at_appliance(Engine& engine, Uuid vm) {
    if (vm.nil()) co_return;
    (void)engine.catalog().vm(vm);
    const bool live = co_await engine.runs(vm);
    if (!live)
        throw Error(ErrorCode::not_running, "{} is down: a device can be plugged into a VM that runs",
                    engine.catalog().describe({ObjectKind::vm, vm}));
}

async::Task<Uuid> start(Engine& engine, ObjectId subject, Uuid volume, Uuid snapshot, ExportRequest request) {
    const Catalog& catalog = engine.catalog();
    ExportRecord record = new_record(catalog, volume, snapshot, request);
    if (request.appliance) record.server = appliance_process(engine, request.appliance).mark;
    check_nobody_changes(engine, catalog.chain(volume));
    // From here on others find the volumes held: first by the claim, then by the record.
    const Catalog::ExportClaim claim(engine.catalog(), record);
    JobRequest job("export", subject, request.owner_uid);
    job.locks.push_back({ObjectKind::exported, record.id});
    job.plan = Json{{"export", record.id.str()}};
    job.changes.put(record);
    Operation operation = [&engine, request](JobPtr started) {
        return run(engine, std::move(started), request);
    };
    co_return co_await engine.jobs().start(std::move(job), std::move(operation));
}

}  // namespace

async::Task<Uuid> export_snapshot(Engine& engine, Uuid snapshot, Uuid disk, ExportRequest request) {
    const Catalog& catalog = engine.catalog();
    check_export_request(engine, request);
    const Uuid first_found = volume_of_snapshot(catalog, snapshot, disk);
    co_await look_at_appliance(engine, request.appliance);
    co_await inspect_layers(engine, first_found);
    // A merge may have been faster.
    const Uuid volume = volume_of_snapshot(catalog, snapshot, disk);
    check_immutable(catalog, volume);
    const ObjectId subject{ObjectKind::snapshot, snapshot};
    co_return co_await start(engine, subject, volume, snapshot, std::move(request));
}

async::Task<Uuid> export_volume(Engine& engine, Uuid volume, ExportRequest request) {
    check_export_request(engine, request);
    check_immutable(engine.catalog(), volume);
    co_await look_at_appliance(engine, request.appliance);
    co_await inspect_layers(engine, volume);
    check_immutable(engine.catalog(), volume);
    const ObjectId subject{ObjectKind::volume, volume};
    co_return co_await start(engine, subject, volume, Uuid(), std::move(request));
}

async::Task<> recover_export_volume(Engine& engine, JobPtr job) {
    ExportVolume operation(engine, std::move(job));
    co_await operation.recover();
}

std::vector<ObjectId> locks_of_export_volume(const JobRecord& job) {
    return {{ObjectKind::exported, export_of(job)}};
}

}  // namespace volchain::storage
