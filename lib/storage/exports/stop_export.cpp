// SPDX-License-Identifier: MIT
#include "storage/exports/stop_export.h"

#include "base/text.h"
#include "storage/exports/export_device.h"
#include "storage/exports/export_mount.h"
#include "storage/exports/export_server.h"
#include "storage/jobs/presence.h"

namespace volchain::storage {
namespace {

constexpr const char* end_step = "end";

/// What recovery needs.
struct StopPlan {
    std::string why;
    std::uint64_t timeout_usec = 0;

    [[nodiscard]] Json json() const { return Json{{"why", why}, {"timeout-usec", timeout_usec}}; }
    [[nodiscard]] static StopPlan parse(const JobRecord& job) {
        const JsonReader reader(job.plan, "plan of job " + job.id.str(), ErrorCode::internal);
        return {reader.at("why").string(), reader.at("timeout-usec").u64()};
    }
};

class StopExport {
  public:
    StopExport(Engine& engine, JobPtr job, StopPlan plan)
        : engine_(engine), job_(std::move(job)), id_(job_->record().subject.id), plan_(std::move(plan)) {}

    async::Task<> run() {
        if (!plan_.why.empty()) job_->log().info("export {} is stopped: {}", id_.str(), plan_.why);
        co_await go();
    }

    /// After a crash of the daemon. From the step on at which it shows nothing any more there is no way back.
    async::Task<> recover() {
        gone_ = job_->record().step == end_step || job_->record().step == "remove" ||
                job_->record().step == "finish";
        if (record().kind == ExportKind::device) (void)co_await runs_or_is_gone(engine_, record().appliance);
        co_await go();
    }

  private:
    [[nodiscard]] const ExportRecord& record() const { return engine_.catalog().exported(id_); }

    async::Task<> go() {
        std::exception_ptr failure;
        co_await async::keep_failure(forward(), failure);
        if (failure && !finished(job_->record().state)) co_await give_up(to_error(failure));
    }

    async::Task<> forward() {
        if (record().kind == ExportKind::device && !gone_) co_await unplug();
        co_await job_->undo_step(end_step);
        gone_ = true;
        co_await end_export(engine_, record(), engine_.exports().neglect(id_));
        co_await job_->undo_step("remove");
        co_await remove_export_files(engine_, id_);
        co_await job_->undo_step("finish");
        Changes changes;
        changes.remove(ObjectKind::exported, id_);
        co_await job_->succeed(std::move(changes), Json::object());
    }

    /// With the guest's consent. Until that is there, everything stays as it is.
    async::Task<> unplug() {
        co_await job_->step("unplug");
        const ExportRecord shown = record();
        co_await engine_.vm(shown.appliance).look_now(async::after(engine_.settings().greeting_timeout * 2));
        const bool there = appliance_is_there(engine_, shown);
        const bool has_it = there && co_await has_export_device(engine_, shown);
        if (!has_it) co_return;
        const std::chrono::microseconds limit(plan_.timeout_usec);
        co_await job_->or_cancel(unplug_from_appliance(engine_, shown, limit));
    }

    async::Task<> give_up(Error reason) {
        ExportRecord left = record();
        const bool whole = !gone_ && left.state == ExportState::stopping;
        left.state = whole ? ExportState::ready : ExportState::lost;
        const std::string_view what =
            whole ? "the export stays" : "not all of it could be done away with: stop it again";
        reason = Error(reason.code(), "{}; {}", reason.what(), what);
        const Uuid appliance = left.appliance;
        Changes changes;
        changes.put(std::move(left));
        co_await job_->fail(std::move(changes), std::move(reason));
        // Nobody looked after it as long as it was being stopped: the appliance may have ended.
        if (appliance) engine_.exports().vm_changed(appliance);
    }

    Engine& engine_;
    JobPtr job_;
    Uuid id_;
    StopPlan plan_;
    bool gone_ = false;  ///< it shows nothing any more
};

async::Task<> run(Engine& engine, JobPtr job, StopPlan plan) {
    StopExport operation(engine, std::move(job), std::move(plan));
    co_await operation.run();
}

/// Throws Busy for one that does not show what it should.
const ExportRecord& ready_export(const Catalog& catalog, const Uuid& id) {
    const ExportRecord& record = catalog.exported(id);
    if (record.state != ExportState::ready)
        throw Error(ErrorCode::busy, "{} is {}", catalog.describe({ObjectKind::exported, id}),
                    word(record.state));
    return record;
}

/// It goes with the backup, which others are told of.
void refuse_part_of_backup(const Catalog& catalog, const ExportRecord& record) {
    if (record.backup)
        throw Error(ErrorCode::busy, "{} is a part of {}, and ends with it: finish or abort that",
                    catalog.describe({ObjectKind::exported, record.id}),
                    catalog.describe({ObjectKind::backup, record.backup}));
}

}  // namespace

async::Task<> end_export(Engine& engine, ExportRecord record, Exports::Daemons daemons) {
    daemons.resize(2);
    if (record.kind == ExportKind::device) {
        const bool there = appliance_is_there(engine, record);
        if (there) co_await close_in_appliance(engine, record);
    } else {
        if (record.kind == ExportKind::file) co_await end_export_mount(engine, record, daemons[1]);
        const std::string monitor = place_of_export(engine, record.id).monitor();
        co_await end_export_process(engine, monitor, record.server, daemons[0]);
    }
}

async::Task<Uuid> stop_export(Engine& engine, StopExportRequest request) {
    ExportRecord record = engine.catalog().exported(request.id);
    refuse_part_of_backup(engine.catalog(), record);
    const ObjectId object{ObjectKind::exported, request.id};
    // One that was not quite done away with is not "stopping" again, and never ready.
    if (record.state == ExportState::ready) record.state = ExportState::stopping;
    StopPlan plan;
    plan.why = std::move(request.why);
    const auto timeout = request.timeout.value_or(engine.settings().unplug_timeout);
    plan.timeout_usec = static_cast<std::uint64_t>(timeout.count());
    JobRequest job("stop-export", object, request.owner_uid);
    job.locks.push_back(object);
    job.plan = plan.json();
    job.changes.put(std::move(record));
    Operation operation = [&engine, plan](JobPtr started) { return run(engine, std::move(started), plan); };
    co_return co_await engine.jobs().start(std::move(job), std::move(operation));
}

async::Task<> renew_export(Engine& engine, Uuid id, std::optional<std::chrono::microseconds> time_to_live) {
    const ObjectId object{ObjectKind::exported, id};
    const auto held = engine.locks().take({object}, "being renewed", Uuid{});
    ExportRecord record = ready_export(engine.catalog(), id);
    const BackupRecord* const owner = backup_of_export(engine.catalog(), record);
    if (owner == nullptr || !owner->restored) refuse_part_of_backup(engine.catalog(), record);
    record.expires = time_to_live ? now() + *time_to_live : Timestamp();
    Changes changes;
    changes.put(std::move(record));
    co_await engine.catalog().commit(std::move(changes), Durability::power);
    engine.exports().forgive(id);
}

async::Task<UniqueFd> open_export(Engine& engine, Uuid id) {
    const ExportRecord& record = ready_export(engine.catalog(), id);
    const std::string what = engine.catalog().describe({ObjectKind::exported, id});
    if (record.kind != ExportKind::nbd)
        throw Error(ErrorCode::unsupported, "{} is no NBD server that could be connected to", what);
    if (!record.address.empty())
        throw Error(ErrorCode::unsupported, "{} is served on {}, with TLS: connect there", what,
                    record.address);
    auto connect = [path = socket_of_export(engine, record)] { return connect_as_client(path); };
    co_return co_await engine.files().run(std::move(connect));
}

async::Task<> recover_stop_export(Engine& engine, JobPtr job) {
    StopPlan plan = StopPlan::parse(job->record());
    StopExport operation(engine, std::move(job), std::move(plan));
    co_await operation.recover();
}

std::vector<ObjectId> locks_of_stop_export(const JobRecord& job) {
    return {job.subject};
}

}  // namespace volchain::storage
