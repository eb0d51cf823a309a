// SPDX-License-Identifier: MIT
#include "storage/create_snapshot.h"

#include <algorithm>
#include <set>

#include "base/text.h"
#include "storage/disk_snapshots.h"
#include "storage/merge_back.h"
#include "storage/preview_state.h"
#include "storage/snapshots.h"

namespace volchain::storage {
namespace {

using std::chrono::duration_cast;

// --- what is asked for
// -----------------------------------------------------------------------------------------------

std::string time_name(const Catalog& catalog, const Uuid& vm) {
    return free_name(format_utc(now()), snapshot_names(catalog, vm));
}

/// The one disk of a request that is of no VM.
Uuid floating_disk(const Catalog& catalog, const SnapshotRequest& request) {
    const Uuid disk = request.disks.value().front();
    if (const Uuid vm = catalog.disk(disk).vm)
        throw Error(ErrorCode::busy, "{} has just been attached to {}",
                    catalog.describe({ObjectKind::disk, disk}), catalog.describe({ObjectKind::vm, vm}));
    return disk;
}

/// The disks that are meant; each must be one of the VM's.
std::vector<Uuid> chosen_disks(const Catalog& catalog, const SnapshotRequest& request) {
    if (request.vm.nil()) return {floating_disk(catalog, request)};
    const std::vector<Uuid> of_vm = catalog.disks_of_vm(request.vm);
    const auto check = [&](const Uuid& disk, std::string_view option) {
        if (std::find(of_vm.begin(), of_vm.end(), disk) == of_vm.end())
            throw Error(ErrorCode::invalid_argument, "option '{}': {} is not a disk of {}", option,
                        catalog.describe({ObjectKind::disk, disk}),
                        catalog.describe({ObjectKind::vm, request.vm}));
    };
    for (const Uuid& disk : request.exclude) check(disk, "exclude");
    std::set<Uuid> chosen(of_vm.begin(), of_vm.end());
    if (request.disks) {
        for (const Uuid& disk : *request.disks) check(disk, "disks");
        chosen = {request.disks->begin(), request.disks->end()};
    }
    for (const Uuid& disk : request.exclude) chosen.erase(disk);
    if (chosen.empty())
        throw Error(ErrorCode::invalid_argument, "{}: no disk is left to take a snapshot of",
                    catalog.describe({ObjectKind::vm, request.vm}));
    return {chosen.begin(), chosen.end()};
}

std::vector<ObjectId> vm_and_disks(const Uuid& vm, const std::vector<Uuid>& disks) {
    std::vector<ObjectId> objects;
    if (vm) objects.push_back({ObjectKind::vm, vm});
    for (const Uuid& disk : disks) objects.push_back({ObjectKind::disk, disk});
    return objects;
}

/// Why a disk cannot take part, as far as that is known beforehand; ok where it can.
std::optional<Error> unfit(Engine& engine, const Uuid& vm, const Uuid& disk, bool live) {
    const Catalog& catalog = engine.catalog();
    const DiskRecord& record = catalog.disk(disk);
    const VolumeFacts& facts = catalog.facts(record.active);
    if (auto refusal = not_to_be_covered(record)) return refusal;
    if (live && engine.vm(vm).find_disk(catalog.path(catalog.volume(record.active))) == nullptr)
        return Error(ErrorCode::not_running,
                     "the running VM does not have it, or runs on another volume of it");
    if (facts.state != VolumeState::ok)
        return Error(facts.state == VolumeState::missing ? ErrorCode::broken_chain : ErrorCode::corrupt_image,
                     "its active volume {} is {}: {}", quote(catalog.path(catalog.volume(record.active))),
                     word(facts.state), facts.problem);
    return std::nullopt;
}

/// Devices that are no disks of ours would be missing in a snapshot of "all disks": that is said, not passed
/// over.
std::vector<ExcludedDisk> strangers(Engine& engine, const SnapshotRequest& request, bool live) {
    std::vector<ExcludedDisk> excluded;
    if (!live || request.disks) return excluded;
    for (const auto& [device, why] : engine.unmanaged(request.vm)) {
        if (request.on_disk_failure == OnDiskFailure::abort)
            throw Error(ErrorCode::unsupported,
                        "{}: device {} cannot take part: {}; name the disks that are wanted with 'disks', or "
                        "leave it "
                        "out with on-disk-failure=exclude",
                        engine.catalog().describe({ObjectKind::vm, request.vm}), quote(device), why);
        excluded.push_back({Uuid{}, fmt::format("device {}: {}", quote(device), why)});
    }
    return excluded;
}

SnapshotRecord new_snapshot(Engine& engine, const SnapshotRequest& request) {
    const Catalog& catalog = engine.catalog();
    SnapshotRecord snapshot;
    snapshot.id = Uuid::make();
    snapshot.vm = request.vm;
    snapshot.name = request.name.empty() ? time_name(catalog, request.vm) : request.name;
    snapshot.description = request.description;
    if (request.schedule) snapshot.origin = "schedule";
    snapshot.schedule = request.schedule;
    snapshot.created = now();
    snapshot.consistency = Consistency::crash;
    snapshot.status = SnapshotStatus::creating;
    if (request.vm.nil()) {
        snapshot.parent = current_floating_snapshot(catalog, floating_disk(catalog, request));
        snapshot.vm_state = VmState::shutoff;
        return snapshot;
    }
    const VmRecord& vm = catalog.vm(request.vm);
    snapshot.parent = vm.current_snapshot;
    snapshot.vm_state = engine.vm(request.vm).state();
    snapshot.config = vm.config;
    snapshot.config_type = vm.config_type;
    return snapshot;
}

void check_new_name(const Catalog& catalog, const SnapshotRequest& request) {
    if (request.name.empty()) return;
    if (request.vm.nil())
        check_floating_snapshot_name(catalog, floating_disk(catalog, request), request.name);
    else
        check_snapshot_name(catalog, request.vm, request.name);
}

// --- the operation
// ---------------------------------------------------------------------------------------------------

class CreateSnapshot {
  public:
    CreateSnapshot(Engine& engine, JobPtr job, Overlays overlays, const Uuid& snapshot, QuiesceMode quiesce)
        : engine_(engine),
          job_(std::move(job)),
          overlays_(std::move(overlays)),
          snapshot_(snapshot),
          quiesce_(quiesce) {}

    static Json plan(const Overlays& overlays, const Uuid& snapshot, QuiesceMode quiesce) {
        Json plan = overlays.plan();
        plan["snapshot"] = snapshot.str();
        plan["quiesce"] = word(quiesce);
        return plan;
    }
    static CreateSnapshot from_plan(Engine& engine, JobPtr job) {
        const JsonReader plan(job->record().plan, "plan of job " + job->id().str(), ErrorCode::internal);
        const Uuid snapshot = Uuid::parse(plan.at("snapshot").string()).value_or(Uuid{});
        const auto quiesce = from_word<QuiesceMode>(plan.at("quiesce").string());
        return {engine, std::move(job), Overlays::from_plan(engine, plan), snapshot,
                quiesce.value_or(QuiesceMode::automatic)};
    }

    /// From the record to the end.
    async::Task<> run(async::Clock::duration freeze_timeout) {
        std::exception_ptr failure;
        co_await async::keep_failure(forward(freeze_timeout), failure);
        if (!failure || finished(job_->record().state)) co_return;
        if (switched_)
            co_await settle(to_error(failure));
        else
            co_await undo(to_error(failure));
    }

    /// After a crash of the daemon.
    async::Task<> recover() {
        const std::string step = job_->record().step;
        opened_ = step != "record" && step != "lock" && step != "files";
        Error reason(ErrorCode::interrupted, "the daemon ended at step {}", step);
        // Withdrawn already: the snapshot's record is gone.
        const bool withdrawn = !engine_.catalog().has({ObjectKind::snapshot, snapshot_});
        if (withdrawn) co_return co_await finish_merge_back(engine_, job_, overlays_, std::move(reason));
        co_await settle(std::move(reason));
    }

  private:
    [[nodiscard]] Json current_plan() const { return plan(overlays_, snapshot_, quiesce_); }

    async::Task<> forward(async::Clock::duration freeze_timeout) {
        if (overlays_.live())
            co_await forward_live(freeze_timeout);
        else
            co_await forward_offline();
    }

    async::Task<> forward_live(async::Clock::duration freeze_timeout) {
        co_await job_->step("files");
        co_await overlays_.create_files();
        job_->set_plan(current_plan());
        co_await job_->step("nodes");
        opened_ = true;
        co_await overlays_.add_nodes();
        job_->set_plan(current_plan());

        FreezeWindow window(engine_, engine_.vm(engine_.catalog().snapshot(snapshot_).vm));
        if (quiesce_ != QuiesceMode::off) {
            co_await job_->step("freeze");
            co_await job_->or_cancel(window.open(freeze_timeout));
            if (quiesce_ == QuiesceMode::require && !window.frozen())
                throw Error(ErrorCode::quiesce_failed, "the guest cannot be frozen: {}", window.why());
        }
        co_await switch_over(window);
        co_await conclude(window);
    }

    /// The part that is in a hurry: nothing is written between the freeze and the thaw. Where nobody is frozen the
    /// plan is written, as it says which disks were left out.
    async::Task<> switch_over(FreezeWindow& window) {
        if (quiesce_ == QuiesceMode::off)
            co_await job_->step("switch");
        else
            job_->pass("switch");
        job_->no_return();
        switched_ = true;
        std::exception_ptr failure;
        co_await async::keep_result(overlays_.switch_over(), switch_times_, failure);
        job_->pass("thaw");
        co_await window.close();
        if (failure) throw_switch_failure(failure);
    }

    [[noreturn]] void throw_switch_failure(const std::exception_ptr& failure) {
        try {
            std::rethrow_exception(failure);
        } catch (const qmp::CommandError&) {
            switched_ = false;  // QEMU refused, and changed nothing
            throw;
        }
    }

    async::Task<> forward_offline() {
        if (quiesce_ == QuiesceMode::require)
            throw Error(ErrorCode::not_running,
                        "no VM has the disk, or it is down: there is no guest to freeze (and no need to)");
        co_await job_->step("lock");
        co_await overlays_.lock_images();
        co_await job_->step("files");
        co_await overlays_.create_files();
        job_->set_plan(current_plan());
        co_await job_->step("bitmaps");
        opened_ = true;
        co_await overlays_.carry_bitmaps();
        co_await job_->step("switch");
        job_->no_return();
        SnapshotRecord snapshot = engine_.catalog().snapshot(snapshot_);
        snapshot.consistency = Consistency::offline;
        co_await finish(std::move(snapshot), Json::object());
    }

    async::Task<> conclude(FreezeWindow& window) {
        if (quiesce_ == QuiesceMode::require && !window.held()) co_return co_await withdraw(window.why());
        SnapshotRecord snapshot = engine_.catalog().snapshot(snapshot_);
        if (window.held())
            snapshot.consistency =
                window.flushes_applications() ? Consistency::application : Consistency::filesystem;
        Json result = times(window);
        // A crash between here and the end must not lose what was reached.
        Json with_outcome = current_plan();
        with_outcome["consistency"] = word(snapshot.consistency);
        with_outcome["result"] = result;
        job_->set_plan(std::move(with_outcome));
        co_await job_->undo_step("finish");
        co_await finish(std::move(snapshot), std::move(result));
    }

    /// A snapshot that was taken, but is not what was asked for.
    async::Task<> withdraw(std::string why) {
        Error reason(ErrorCode::quiesce_failed, "{}; the snapshot was undone", why);
        co_await merge_back(engine_, job_, overlays_, snapshot_, std::move(reason));
    }

    [[nodiscard]] Json times(const FreezeWindow& window) const {
        const auto usec = [](async::Clock::duration duration) {
            return duration_cast<Microseconds>(duration).count();
        };
        Json result;
        result["switch-usec"] = usec(switch_times_.answered - switch_times_.sent);
        if (quiesce_ != QuiesceMode::off && !window.held()) result["quiesce"] = window.why();
        if (!window.times()) return result;
        const FreezeTimes& times = *window.times();
        const auto frozen = times.thaw_sent - times.frozen;
        result["frozen-usec"] = usec(frozen);
        job_->log()
            .with("VOLCHAIN_FROZEN_USEC", fmt::format("{}", usec(frozen)))
            .with("VOLCHAIN_SWITCH_USEC",
                  fmt::format("{}", usec(switch_times_.answered - switch_times_.sent)))
            .info("guest frozen for {} us between the freeze's answer and the thaw, {} us of them in QEMU",
                  usec(frozen), usec(switch_times_.answered - switch_times_.sent));
        return result;
    }

    /// All is done but the records.
    async::Task<> finish(SnapshotRecord snapshot, Json result) {
        snapshot.disks.clear();
        for (const PlannedOverlay& overlay : overlays_.all()) {
            if (overlay.dropped)
                snapshot.excluded.push_back({overlay.disk, overlay.why_dropped});
            else
                snapshot.disks.push_back({overlay.disk, overlay.parent});
        }
        snapshot.status = snapshot.excluded.empty() ? SnapshotStatus::ok : SnapshotStatus::partial;
        Changes changes = overlays_.changes();
        changes.put(snapshot);
        if (snapshot.vm) {
            VmRecord vm = engine_.catalog().vm(snapshot.vm);
            vm.current_snapshot = snapshot.id;
            changes.put(std::move(vm)).put(ManifestStale{snapshot.vm, true});
        }
        result["snapshot"] = object_json({ObjectKind::snapshot, snapshot.id});
        overlays_.make_known();
        co_await job_->succeed(std::move(changes), std::move(result));
        engine_.write_manifests();
    }

    async::Task<> undo(Error reason) {
        // Also where that step cannot be written: to end the job means to do it, at whatever step it was.
        std::exception_ptr failure;
        co_await async::keep_failure(job_->undo_step("undo"), failure);
        if (failure) job_->log().warning("undoing, though it cannot be noted: {}", to_error(failure).what());
        failure = nullptr;
        co_await async::keep_failure(overlays_.undo(opened_), failure);
        if (failure)
            reason = Error(reason.code(), "{}; not all of it could be undone: {}", reason.what(),
                           to_error(failure).what());
        Changes changes;
        changes.remove(ObjectKind::snapshot, snapshot_);
        co_await job_->fail(std::move(changes), std::move(reason));
    }

    /// Nobody knows on which side of the switch things are.
    async::Task<> settle(Error reason) {
        const Overlays::Side side = co_await overlays_.settle();
        if (side == Overlays::Side::before_switch)
            co_return co_await undo(Error(reason.code(), "{}; the snapshot was undone", reason.what()));
        const JsonReader plan(job_->record().plan, "plan of job " + job_->id().str(), ErrorCode::internal);
        const auto reached = plan.find("consistency");
        if (!reached && quiesce_ == QuiesceMode::require) {
            std::string why = fmt::format("whether the guest was frozen is not known: {}", reason.what());
            co_return co_await withdraw(std::move(why));
        }
        job_->log().notice("the switch to the new overlays had happened; the snapshot is finished");
        SnapshotRecord snapshot = engine_.catalog().snapshot(snapshot_);
        Json result;
        if (reached) {
            snapshot.consistency = from_word<Consistency>(reached->string()).value_or(Consistency::crash);
            result = plan.at("result").json();
        } else {
            result["quiesce"] = fmt::format("not known to have been frozen: {}", reason.what());
        }
        co_await finish(std::move(snapshot), std::move(result));
    }

    Engine& engine_;
    JobPtr job_;
    Overlays overlays_;
    Uuid snapshot_;
    QuiesceMode quiesce_;
    bool opened_ = false;    ///< QEMU may have had the new files
    bool switched_ = false;  ///< or nobody knows
    qmp::CallTimes switch_times_{};
};

async::Task<> run(Engine& engine, JobPtr job, Overlays overlays, Uuid snapshot, QuiesceMode quiesce,
                  async::Clock::duration freeze_timeout) {
    CreateSnapshot operation(engine, std::move(job), std::move(overlays), snapshot, quiesce);
    co_await operation.run(freeze_timeout);
}

/// What was not there at the last look may be there by now.
async::Task<> look_at_broken(Engine& engine, std::vector<Uuid> disks) {
    std::vector<Uuid> broken;
    for (const Uuid& disk : disks) {
        const Uuid active = engine.catalog().disk(disk).active;
        if (engine.catalog().facts(active).state != VolumeState::ok) broken.push_back(active);
    }
    co_await engine.inspect_volumes(std::move(broken));
}

}  // namespace

SnapshotRequest snapshot_of_disk(const Catalog& catalog, const Uuid& disk, std::string name) {
    SnapshotRequest request(catalog.disk(disk).vm, std::move(name));
    request.disks.emplace({disk});
    return request;
}

async::Task<Uuid> create_snapshot(Engine& engine, SnapshotRequest request) {
    const Catalog& catalog = engine.catalog();
    if (request.vm) (void)catalog.vm(request.vm);
    check_new_name(catalog, request);
    check_description(request.description);
    bool live = false;
    if (request.vm) live = co_await engine.ready_to_work(request.vm);
    check_no_preview(catalog, request.vm);
    std::vector<Uuid> disks = chosen_disks(catalog, request);
    co_await look_at_broken(engine, disks);
    disks = chosen_disks(catalog, request);

    Overlays overlays(engine, live ? request.vm : Uuid{}, request.on_disk_failure);
    for (const Uuid& disk : disks) {
        overlays.add(disk);
        if (const auto reason = unfit(engine, request.vm, disk, live)) overlays.drop(disk, *reason);
    }
    SnapshotRecord snapshot = new_snapshot(engine, request);
    snapshot.excluded = strangers(engine, request, live);

    ObjectId subject{ObjectKind::vm, request.vm};
    if (request.vm.nil()) subject = {ObjectKind::disk, disks.front()};
    JobRequest job("create-snapshot", subject, request.owner_uid);
    job.locks = vm_and_disks(request.vm, disks);
    job.plan = CreateSnapshot::plan(overlays, snapshot.id, request.quiesce);
    job.changes.put(snapshot);
    const auto timeout = request.freeze_timeout.value_or(engine.settings().freeze_timeout);
    Operation operation = [&engine, overlays = std::make_shared<Overlays>(std::move(overlays)),
                           id = snapshot.id, quiesce = request.quiesce, timeout](JobPtr started) {
        return run(engine, std::move(started), std::move(*overlays), id, quiesce, timeout);
    };
    co_return co_await engine.jobs().start(std::move(job), std::move(operation));
}

async::Task<> recover_create_snapshot(Engine& engine, JobPtr job) {
    CreateSnapshot operation = CreateSnapshot::from_plan(engine, std::move(job));
    co_await operation.recover();
}

std::vector<ObjectId> locks_of_create_snapshot(const JobRecord& job) {
    const JsonReader plan(job.plan, "plan of job " + job.id.str(), ErrorCode::internal);
    std::vector<Uuid> disks;
    for (const JsonReader& overlay : plan.at("overlays").elements())
        disks.push_back(Uuid::parse(overlay.at("disk").string()).value_or(Uuid{}));
    return vm_and_disks(job.subject.kind == ObjectKind::vm ? job.subject.id : Uuid{}, disks);
}

}  // namespace volchain::storage
