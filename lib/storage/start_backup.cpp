// SPDX-License-Identifier: MIT
#include "storage/start_backup.h"

#include <unistd.h>

#include <algorithm>
#include <set>

#include "base/text.h"
#include "qmp/schema.h"
#include "storage/backup_nodes.h"
#include "storage/backup_place.h"
#include "storage/checkpoints.h"
#include "storage/end_backup.h"
#include "storage/export_bitmap.h"
#include "storage/export_device.h"
#include "storage/export_server.h"
#include "storage/overlays.h"
#include "storage/presence.h"
#include "storage/preview_state.h"

namespace volchain::storage {
namespace {

// --- what is asked for -------------------------------------------------------------------------------------

[[noreturn]] void refuse_backup_option(std::string_view option, std::string_view why) {
    throw Error(ErrorCode::invalid_argument, "option '{}' {}", option, why);
}

void check_request(const BackupRequest& request) {
    if (request.kind == BackupKind::full && !request.since.empty())
        refuse_backup_option("since", "is for incremental and differential backups");
    if (request.kind == BackupKind::full && request.require_incremental)
        refuse_backup_option("require-incremental", "is for incremental and differential backups");
    if (request.kind == BackupKind::differential && request.since.empty())
        refuse_backup_option("since", "is missing: the checkpoint that a differential backup goes back to");
    if (!request.checkpoint.empty()) check_checkpoint_name(request.checkpoint);
    if (request.push) {
        if (request.allowed_uid) refuse_backup_option("allow-uid", "is for backups in pull mode");
        if (!request.caller.empty()) refuse_backup_option("bind-to-caller", "is for backups in pull mode");
        check_push_directory(request.push->directory);
    }
    if (!request.push && request.speed != 0) refuse_backup_option("speed", "is for backups in push mode");
    if (request.allowed_uid == UINT32_MAX) refuse_backup_option("allow-uid", "is no user");
    const bool others = request.owner_uid != ::geteuid() ||
                        request.allowed_uid.value_or(request.owner_uid) != request.owner_uid;
    if (others && !request.push && ::geteuid() != 0)
        throw Error(ErrorCode::unsupported,
                    "only a daemon that runs as root can let other users than its own connect");
}

std::vector<Uuid> disks_to_back_up(const Catalog& catalog, const BackupRequest& request) {
    const std::vector<Uuid> of_vm = catalog.disks_of_vm(request.vm);
    if (!request.disks) {
        if (of_vm.empty())
            throw Error(ErrorCode::invalid_argument, "{} has no disks",
                        catalog.describe({ObjectKind::vm, request.vm}));
        return of_vm;
    }
    const std::set<Uuid> wanted(request.disks->begin(), request.disks->end());
    for (const Uuid& disk : wanted)
        if (std::find(of_vm.begin(), of_vm.end(), disk) == of_vm.end())
            throw Error(ErrorCode::invalid_argument, "option 'disks': {} is not a disk of {}",
                        catalog.describe({ObjectKind::disk, disk}),
                        catalog.describe({ObjectKind::vm, request.vm}));
    if (wanted.empty()) refuse_backup_option("disks", "is empty");
    return {wanted.begin(), wanted.end()};
}

/// The bitmaps that changes are to be known by; empty: of a full backup, or there are none.
std::string bitmap_since(const Engine& engine, const BackupRequest& request) {
    if (request.kind == BackupKind::full) return {};
    if (!request.since.empty()) return find_checkpoint(engine, request.vm, request.since).bitmap();
    const std::vector<Checkpoint> all = checkpoints_of(engine, request.vm);
    return all.empty() ? std::string() : all.back().name.bitmap();
}

std::string new_bitmap(const Engine& engine, const BackupRequest& request) {
    if (request.checkpoint.empty()) return {};
    for (const Checkpoint& checkpoint : checkpoints_of(engine, request.vm))
        if (checkpoint.name.name == request.checkpoint)
            throw Error(ErrorCode::already_exists,
                        "{} has a checkpoint {} already; delete it, or name another",
                        engine.catalog().describe({ObjectKind::vm, request.vm}), quote(request.checkpoint));
    return CheckpointName(request.checkpoint, now()).bitmap();
}

// --- what there is -----------------------------------------------------------------------------------------

/// The property "iothread" of a device, or of the controller whose bus it is on; empty where it has none.
async::Task<std::string> text_property(std::shared_ptr<qmp::Session> session, std::string path,
                                       std::string property, async::Deadline deadline) {
    Json arguments{{"path", std::move(path)}, {"property", std::move(property)}};
    Json value;
    try {
        value = co_await session->execute("qom-get", std::move(arguments), deadline);
    } catch (const qmp::CommandError&) {
    }
    co_return value.is_string() ? value.get<std::string>() : std::string();
}

async::Task<bool> runs_in_iothread(std::shared_ptr<qmp::Session> session, std::string device,
                                   async::Deadline deadline) {
    const std::string own = co_await text_property(session, device, "iothread", deadline);
    if (!own.empty()) co_return true;
    const std::string bus = co_await text_property(session, device, "parent_bus", deadline);
    const std::size_t slash = bus.rfind('/');
    if (slash == std::string::npos) co_return false;
    std::string controller = bus.substr(0, slash);
    const std::string of_controller =
        co_await text_property(session, std::move(controller), "iothread", deadline);
    co_return !of_controller.empty();
}

class BackupPlanner {
  public:
    BackupPlanner(Engine& engine, const BackupRequest& request)
        : engine_(engine), request_(request), session_(engine.vm(request.vm).session()) {}

    async::Task<BackupRecord> plan() {
        graph_ = co_await qmp::read_block_graph(session_, soon());
        const auto schema = co_await session_->schema(soon());
        iothreads_work_ = schema->command_has_argument({"nbd-server-start", "handshake-max-seconds"});
        BackupRecord record;
        record.id = Uuid::make();
        record.vm = request_.vm;
        record.kind = request_.kind;
        record.state = BackupState::starting;
        record.checkpoint = new_bitmap(engine_, request_);
        record.since = bitmap_since(engine_, request_);
        record.created = now();
        record.owner_uid = request_.owner_uid;
        record.allowed_uid = request_.allowed_uid;
        record.caller = request_.caller;
        record.qemu = appliance_process(engine_, request_.vm).mark;
        for (const Uuid& disk : disks_to_back_up(catalog(), request_)) {
            BackupDisk part = co_await plan_disk(disk, record);
            record.disks.push_back(std::move(part));
        }
        check_result(record);
        co_return record;
    }

    void check_result(const BackupRecord& record) const {
        const auto tracked = [](const BackupDisk& part) { return part.tracked; };
        if (!record.checkpoint.empty() && std::none_of(record.disks.begin(), record.disks.end(), tracked))
            throw Error(ErrorCode::unsupported,
                        "option 'checkpoint': no image of these disks can hold one; it takes qcow2 (compat "
                        "1.1)");
        if (!request_.require_incremental) return;
        std::vector<std::string> full;
        for (const BackupDisk& part : record.disks)
            if (!part.incremental)
                full.push_back(catalog().describe({ObjectKind::disk, part.disk}) + ": " + part.why);
        if (!full.empty())
            throw Error(ErrorCode::unsupported,
                        "it would not be incremental, which is required; a full backup is needed of {}",
                        joined(full, "; "));
    }

  private:
    [[nodiscard]] const Catalog& catalog() const { return engine_.catalog(); }
    [[nodiscard]] async::Deadline soon() const { return async::after(engine_.settings().command_timeout); }

    async::Task<BackupDisk> plan_disk(Uuid id, BackupRecord record) {
        const DiskRecord& disk = catalog().disk(id);
        const std::string name = catalog().describe({ObjectKind::disk, id});
        if (const auto refusal = not_to_be_covered(disk)) throw refusal->during(name);
        BackupDisk part;
        part.disk = id;
        part.volume = disk.active;
        part.layer = live_disk(engine_, id).active().node;
        if (!request_.push) part.exported = Uuid::make();
        const auto devices = graph_.devices_on(part.layer);
        if (devices.size() != 1)
            throw Error(ErrorCode::unsupported, "{}: {} devices of the VM stand on it", name, devices.size());
        part.root = devices.front()->root;
        const std::string& path = devices.front()->path;
        part.device = path.starts_with('/') ? path : "/machine/peripheral/" + path;
        const bool threaded = co_await runs_in_iothread(session_, part.device, soon());
        if (threaded && !iothreads_work_ && !request_.push)
            throw Error(ErrorCode::unsupported,
                        "{}: its device runs in an iothread, and the NBD server of this QEMU would crash the "
                        "VM; back it up in push mode, or take a snapshot, and export that",
                        name);
        judge(part, record);
        co_return part;
    }

    void judge(BackupDisk& part, const BackupRecord& record) const {
        const VolumeFacts& facts = catalog().facts(part.volume);
        const bool holds = facts.header && facts.header->version >= 3;
        part.tracked = holds && !record.checkpoint.empty();
        if (request_.kind == BackupKind::full) return;
        if (record.since.empty()) {
            part.why = "there is no checkpoint";
            return;
        }
        const Recording recording = recording_in(graph_.chain(part.layer), record.since);
        part.incremental = recording.flaw.empty();
        part.why = recording.flaw;
        if (!recording.known && !holds) part.why = "its image is of a kind that holds no bitmaps";
    }

    Engine& engine_;
    const BackupRequest& request_;
    std::shared_ptr<qmp::Session> session_;
    qmp::BlockGraph graph_;
    bool iothreads_work_ = false;
};

// --- the operation -----------------------------------------------------------------------------------------

struct HoldOptions {
    QuiesceMode quiesce = QuiesceMode::automatic;
    async::Clock::duration freeze_timeout{};
    std::uint64_t speed = 0;
};

/// What recovery needs.
struct StartPlan {
    Uuid backup;
    bool compress = false;
    std::vector<PushedFile> files;  ///< of push: one for each disk

    [[nodiscard]] Json json() const {
        Json plan{{"backup", backup.str()}, {"compress", compress}, {"files", Json::array()}};
        for (const PushedFile& file : files) plan["files"].push_back(file.json());
        return plan;
    }
    [[nodiscard]] static StartPlan parse(const JobRecord& job) {
        const JsonReader reader(job.plan, "plan of job " + job.id.str(), ErrorCode::internal);
        StartPlan plan;
        plan.backup = id_in(reader.at("backup"));
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
        std::exception_ptr failure;
        co_await async::keep_failure(forward(options), failure);
        if (failure && !finished(job_->record().state)) co_await undo(to_error(failure));
    }

    async::Task<> recover() {
        const std::string step = job_->record().step;
        if (step == "publish" || step == "end") {
            std::exception_ptr failure;
            co_await async::keep_failure(conclude_push(), failure);
            if (failure && !finished(job_->record().state)) co_await undo(to_error(failure));
            co_return;
        }
        Error reason(ErrorCode::interrupted, "the daemon ended at step {}; there is no backup",
                     job_->record().step);
        co_await undo(std::move(reason));
    }

  private:
    [[nodiscard]] const BackupRecord& record() const { return engine_.catalog().backup(id_); }

    async::Task<> forward(HoldOptions options) {
        co_await job_->step("files");
        co_await make_files();
        co_await job_->step("nodes");
        BackupNodes nodes(engine_, engine_.vm(record().vm).session(), record());
        co_await nodes.add_scratch();
        co_await hold(nodes, options);
        co_await job_->step("filters");
        co_await nodes.put_filters();
        co_await job_->step("readers");
        if (!plan_.files.empty()) co_return co_await push(nodes);
        co_await nodes.add_readers();
        co_await job_->step("server");
        co_await serve(nodes);
        co_await job_->step("finish");
        co_await finish();
    }

    async::Task<> make_files() {
        std::vector<ScratchFile> scratch;
        for (const BackupDisk& disk : record().disks)
            for (const char which : {'a', 'b'})
                scratch.push_back(scratch_of(engine_.catalog(), id_, disk, which));
        auto work = [scratch = std::move(scratch)] {
            for (const ScratchFile& file : scratch) check_room_for_scratch(file);
            for (const ScratchFile& file : scratch) make_scratch(file);
        };
        co_await engine_.files().run(std::move(work));
    }

    /// As with snapshots, one command stands between the freeze and the thaw.
    async::Task<> hold(BackupNodes& nodes, HoldOptions options) {
        FreezeWindow window(engine_, engine_.vm(record().vm));
        if (options.quiesce != QuiesceMode::off) {
            co_await job_->step("freeze");
            co_await job_->or_cancel(window.open(options.freeze_timeout));
            if (options.quiesce == QuiesceMode::require && !window.frozen())
                throw Error(ErrorCode::quiesce_failed, "the guest cannot be frozen: {}", window.why());
        }
        job_->pass("hold");
        std::exception_ptr failure;
        qmp::CallTimes times;
        co_await async::keep_result(nodes.hold(), times, failure);
        job_->pass("thaw");
        co_await window.close();
        if (failure) std::rethrow_exception(failure);
        if (options.quiesce == QuiesceMode::require && !window.held())
            throw Error(ErrorCode::quiesce_failed, "{}", window.why());
        note(window, times, options);
    }

    void note(const FreezeWindow& window, const qmp::CallTimes& times, const HoldOptions& options) {
        const auto usec = [](async::Clock::duration duration) {
            return std::chrono::duration_cast<Microseconds>(duration).count();
        };
        result_["hold-usec"] = usec(times.answered - times.sent);
        if (options.quiesce != QuiesceMode::off && !window.held()) result_["quiesce"] = window.why();
        if (window.times()) result_["frozen-usec"] = usec(window.times()->thaw_sent - window.times()->frozen);
        if (!window.held()) return;
        consistency_ = window.flushes_applications() ? Consistency::application : Consistency::filesystem;
    }

    async::Task<> push(BackupNodes& nodes) {
        co_await nodes.add_copy_sources();
        co_await job_->step("copy");
        co_await push_disks(engine_, job_, nodes, plan_.files, plan_.compress);
        job_->no_return();
        // Recovery has nothing else to go by.
        plan_result_ = result_;
        co_await conclude_push();
    }

    /// All is there.
    async::Task<> conclude_push() {
        co_await job_->step_through("publish");
        co_await name_pushed_files(engine_, plan_.files);
        co_await job_->step_through("end");
        co_await dismantle_backup(engine_, record(), false);
        Json result = plan_result_;
        result["files"] = Json::array();
        for (const PushedFile& file : plan_.files) result["files"].push_back(file.path());
        const auto checkpoint = CheckpointName::of_bitmap(record().checkpoint);
        if (checkpoint) result["checkpoint"] = checkpoint->name;
        Changes changes;
        changes.remove(ObjectKind::backup, id_);
        co_await job_->succeed(std::move(changes), std::move(result));
    }

    async::Task<> serve(BackupNodes& nodes) {
        const BackupPlace place = place_of_backup(engine_, id_);
        auto make = [place, owner = appliance_process(engine_, record().vm).identity] {
            place.make_for(owner);
        };
        co_await engine_.files().run(std::move(make));
        co_await nodes.start_server(place.socket());
        auto give = [place, user = record().allowed_uid.value_or(record().owner_uid)] {
            place.give_socket_to(user);
        };
        co_await engine_.files().run(std::move(give));
        co_await nodes.show();
    }

    async::Task<> finish() {
        job_->no_return();
        std::exception_ptr known_later;
        co_await async::keep_failure(engine_.vm(record().vm).read_disks(), known_later);
        BackupRecord ready = record();
        ready.state = BackupState::ready;
        ready.consistency = consistency_;
        Changes changes;
        for (const BackupDisk& disk : ready.disks) changes.put(export_of_disk(ready, disk));
        changes.put(std::move(ready));
        result_["backup"] = object_json({ObjectKind::backup, id_});
        const Uuid vm = record().vm;
        co_await job_->succeed(std::move(changes), std::move(result_));
        engine_.backups().vm_changed(vm);
    }

    [[nodiscard]] static ExportRecord export_of_disk(const BackupRecord& backup, const BackupDisk& disk) {
        ExportRecord shown;
        shown.id = disk.exported;
        shown.kind = ExportKind::nbd;
        shown.state = ExportState::ready;
        shown.volume = disk.volume;
        shown.disk = disk.disk;
        shown.owner_uid = backup.owner_uid;
        shown.allowed_uid = backup.allowed_uid;
        shown.server = backup.qemu;
        shown.backup = backup.id;
        if (disk.incremental) shown.bitmap = "qemu:dirty-bitmap:" + shown_bitmap_name(backup.since);
        return shown;
    }

    async::Task<> undo(Error reason) {
        std::exception_ptr failure;
        co_await async::keep_failure(job_->undo_step("undo"), failure);
        if (failure) job_->log().warning("undoing, though it cannot be noted: {}", to_error(failure).what());
        failure = nullptr;
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
            changes.remove(ObjectKind::backup, id_);
        }
        co_await job_->fail(std::move(changes), std::move(reason));
    }

    async::Task<> take_back() {
        co_await dismantle_backup(engine_, record(), true);
        co_await remove_parts(engine_, plan_.files);
    }

    Engine& engine_;
    JobPtr job_;
    StartPlan plan_;
    Uuid id_;
    Json plan_result_ = Json::object();
    Consistency consistency_ = Consistency::crash;
    Json result_ = Json::object();
};

async::Task<> run(Engine& engine, JobPtr job, HoldOptions options) {
    if (options.speed != 0) job->set_speed(options.speed);
    StartBackup operation(engine, std::move(job));
    co_await operation.run(options);
}

async::Task<> plan_push(Engine& engine, PushTarget target, StartPlan& plan, BackupRecord& record) {
    std::vector<std::string> names;
    for (const BackupDisk& disk : record.disks) names.push_back(engine.catalog().disk(disk.disk).name);
    auto work = [names = std::move(names), target, planned = record]() mutable {
        std::vector<PushedFile> files = plan_files(names, target, planned);
        return std::make_pair(std::move(files), std::move(planned));
    };
    auto [files, planned] = co_await engine.files().run(std::move(work));
    plan.files = std::move(files);
    plan.compress = target.compress;
    record = std::move(planned);
}

}  // namespace

async::Task<Uuid> start_backup(Engine& engine, BackupRequest request) {
    check_request(request);
    (void)engine.catalog().vm(request.vm);
    const bool live = co_await engine.ready_to_work(request.vm);
    if (!live)
        throw Error(ErrorCode::not_running,
                    "{} is down: take a snapshot of it, and export that since the last checkpoint",
                    engine.catalog().describe({ObjectKind::vm, request.vm}));
    check_no_preview(engine.catalog(), request.vm);
    std::vector<ObjectId> locks{{ObjectKind::vm, request.vm}};
    for (const Uuid& disk : disks_to_back_up(engine.catalog(), request))
        locks.push_back({ObjectKind::disk, disk});
    // What is found is still so when the job begins: nobody else gets a turn between the two.
    auto held = engine.locks().take(locks, "being prepared for a backup", Uuid{});
    co_await look_at_checkpoints(engine, request.vm);
    BackupPlanner planner(engine, request);
    BackupRecord record = co_await planner.plan();
    StartPlan plan;
    plan.backup = record.id;
    if (request.push) {
        co_await plan_push(engine, *request.push, plan, record);
        planner.check_result(record);
    }
    JobRequest job("start-backup", {ObjectKind::vm, request.vm}, request.owner_uid);
    job.locks = std::move(locks);
    job.locks.push_back({ObjectKind::backup, record.id});
    job.plan = plan.json();
    job.changes.put(std::move(record));
    HoldOptions options;
    options.quiesce = request.quiesce;
    options.freeze_timeout = request.freeze_timeout.value_or(engine.settings().freeze_timeout);
    options.speed = request.speed;
    Operation operation = [&engine, options](JobPtr started) {
        return run(engine, std::move(started), options);
    };
    held.release();
    co_return co_await engine.jobs().start(std::move(job), std::move(operation));
}

async::Task<> recover_start_backup(Engine& engine, JobPtr job) {
    StartBackup operation(engine, std::move(job));
    co_await operation.recover();
}

/// The record locks the disks.
std::vector<ObjectId> locks_of_start_backup(const JobRecord& job) {
    return {job.subject, {ObjectKind::backup, StartPlan::parse(job).backup}};
}

}  // namespace volchain::storage
