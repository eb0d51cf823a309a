// SPDX-License-Identifier: MIT
#include "storage/snapshots/snapshot_work.h"

#include "base/text.h"
#include "storage/memory/memory_writer.h"
#include "storage/previews/merge_back.h"

namespace volchain::storage {
namespace {

using std::chrono::duration_cast;

/// For the guest of a daemon that is being stopped.
constexpr auto last_settle_limit = std::chrono::seconds(5);

class SnapshotWork {
  public:
    SnapshotWork(Engine& engine, JobPtr job, SnapshotParts parts)
        : engine_(engine), job_(std::move(job)), parts_(std::move(parts)) {
        if (const SnapshotFile* const memory = files().memory())
            memory_.emplace(engine_, job_, job_->record().subject.id, files().pool_path(*memory),
                            memory->file);
    }

    /// From the record to the end.
    async::Task<> run(async::Clock::duration freeze_timeout) {
        std::exception_ptr failure;
        co_await async::keep_failure(forward(freeze_timeout), failure);
        if (!failure || finished(job_->record().state)) co_return;
        Error reason = to_error(failure);
        if (halting_) reason = co_await release_guest(std::move(reason));
        if (switched_)
            co_await settle(std::move(reason));
        else
            co_await undo(std::move(reason));
    }

    /// After a crash of the daemon.
    async::Task<> recover() {
        const std::string step = job_->record().step;
        opened_ = step != "record" && step != "lock" && step != "files";
        Error reason(ErrorCode::interrupted, "the daemon ended at step {}", step);
        const JsonReader plan(job_->record().plan, "plan of job " + job_->id().str(), ErrorCode::internal);
        const auto memory = plan.find("memory");
        if (memory_ && memory) {
            memory_->take_plan(*memory);
            co_await memory_->settle(async::no_deadline);
        }
        // Withdrawn already: the snapshot's record is gone.
        const bool withdrawn = !engine_.catalog().has({ObjectKind::snapshot, parts_.snapshot});
        if (withdrawn) co_return co_await finish_merge_back(engine_, job_, overlays(), std::move(reason));
        co_await settle(std::move(reason));
    }

  private:
    [[nodiscard]] Overlays& overlays() noexcept { return parts_.overlays; }
    [[nodiscard]] SnapshotFiles& files() noexcept { return parts_.files; }
    [[nodiscard]] const SnapshotRecord& record() const { return engine_.catalog().snapshot(parts_.snapshot); }

    [[nodiscard]] Json current_plan() const {
        Json plan = parts_.plan();
        if (memory_ && halting_) plan["memory"] = memory_->plan();
        return plan;
    }

    async::Task<> forward(async::Clock::duration freeze_timeout) {
        if (overlays().live())
            co_await forward_live(freeze_timeout);
        else
            co_await forward_offline();
    }

    async::Task<> forward_live(async::Clock::duration freeze_timeout) {
        co_await job_->step("files");
        co_await overlays().create_files();
        co_await files().create();
        job_->set_plan(current_plan());
        co_await job_->step("nodes");
        opened_ = true;
        co_await overlays().add_nodes();
        job_->set_plan(current_plan());
        if (memory_) co_return co_await forward_with_memory();

        FreezeWindow window(engine_, engine_.vm(record().vm));
        if (parts_.quiesce != QuiesceMode::off) {
            co_await job_->step("freeze");
            co_await job_->or_cancel(window.open(freeze_timeout));
            if (parts_.quiesce == QuiesceMode::require && !window.frozen())
                throw Error(ErrorCode::quiesce_failed, "the guest cannot be frozen: {}", window.why());
        }
        co_await switch_over(window);
        co_await conclude(window);
    }

    /// The part that is in a hurry: nothing is written between the freeze and the thaw. Where nobody is frozen the
    /// plan is written, as it says which disks were left out.
    async::Task<> switch_over(FreezeWindow& window) {
        if (parts_.quiesce == QuiesceMode::off)
            co_await job_->step("switch");
        else
            job_->pass("switch");
        job_->no_return();
        switched_ = true;
        std::exception_ptr failure;
        co_await async::keep_failure(switch_disks(), failure);
        job_->pass("thaw");
        co_await window.close();
        if (failure) throw_switch_failure(failure);
    }

    /// Variable stores are read meanwhile: that takes no longer.
    async::Task<> switch_disks() {
        async::TaskGroup beside(engine_.executor());
        std::exception_ptr copying;
        std::exception_ptr failure;
        beside.spawn(async::keep_failure(files().copy_stores(), copying), "copying variable stores");
        co_await async::keep_result(overlays().switch_over(), switch_times_, failure);
        co_await beside.drain();
        if (failure) std::rethrow_exception(failure);
        if (copying) std::rethrow_exception(copying);
    }

    [[noreturn]] void throw_switch_failure(const std::exception_ptr& failure) {
        try {
            std::rethrow_exception(failure);
        } catch (const qmp::CommandError&) {
            switched_ = false;  // QEMU refused, and changed nothing
            throw;
        }
    }

    /// The same where the guest stands still instead of being frozen. What the daemon has to know after a crash, that it
    /// has stopped the guest, is on disk with the step "stop".
    async::Task<> forward_with_memory() {
        co_await memory_->look();
        halting_ = true;
        job_->set_plan(current_plan());
        co_await job_->step("prepare");
        co_await memory_->prepare();
        memory_->note_halted(memory_->guest_ran());
        job_->set_plan(current_plan());
        co_await job_->step("stop");
        co_await memory_->stop();
        job_->pass("switch");
        job_->no_return();
        switched_ = true;
        std::exception_ptr failure;
        co_await async::keep_failure(switch_disks(), failure);
        if (failure) throw_switch_failure(failure);
        job_->pass("save");
        co_await memory_->save();
        job_->set_plan(current_plan());
        co_await job_->step_through("write");
        job_->may_be_cancelled();
        co_await memory_->write();
        SnapshotRecord snapshot = record();
        snapshot.consistency = Consistency::memory;
        snapshot.vm_state = memory_->guest_ran() ? VmState::running : VmState::paused;
        snapshot.files = co_await files().settle(true);
        job_->no_return();
        Json result = switch_time();
        memory_->report(result);
        result["memory-bytes"] = memory_of(snapshot)->bytes;
        co_await note_reached(snapshot, result);
        co_await finish(std::move(snapshot), std::move(result));
    }

    async::Task<> forward_offline() {
        if (parts_.quiesce == QuiesceMode::require)
            throw Error(ErrorCode::not_running,
                        "no VM has the disk, or it is down: there is no guest to freeze (and no need to)");
        co_await job_->step("lock");
        co_await overlays().lock_images();
        co_await job_->step("files");
        co_await overlays().create_files();
        co_await files().create();
        co_await files().copy_stores();
        job_->set_plan(current_plan());
        co_await job_->step("bitmaps");
        opened_ = true;
        co_await overlays().carry_bitmaps();
        co_await job_->step("switch");
        job_->no_return();
        SnapshotRecord snapshot = record();
        snapshot.consistency = Consistency::offline;
        snapshot.files = co_await files().settle(false);
        co_await finish(std::move(snapshot), Json::object());
    }

    async::Task<> conclude(FreezeWindow& window) {
        if (parts_.quiesce == QuiesceMode::require && !window.held())
            co_return co_await withdraw(window.why());
        SnapshotRecord snapshot = record();
        if (window.held())
            snapshot.consistency =
                window.flushes_applications() ? Consistency::application : Consistency::filesystem;
        snapshot.files = co_await files().settle(false);
        Json result = times(window);
        co_await note_reached(snapshot, result);
        co_await finish(std::move(snapshot), std::move(result));
    }

    /// A crash between here and the end must not lose what was reached.
    async::Task<> note_reached(const SnapshotRecord& snapshot, Json result) {
        Json with_outcome = current_plan();
        with_outcome["consistency"] = word(snapshot.consistency);
        with_outcome["vm-state"] = word(snapshot.vm_state);
        with_outcome["result"] = std::move(result);
        job_->set_plan(std::move(with_outcome));
        co_await job_->undo_step("finish");
    }

    /// A snapshot that was taken, but is not what was asked for.
    async::Task<> withdraw(std::string why) {
        co_await files().remove();
        Error reason(ErrorCode::quiesce_failed, "{}; the snapshot was undone", why);
        co_await merge_back(engine_, job_, overlays(), parts_.snapshot, std::move(reason));
    }

    [[nodiscard]] Json switch_time() const {
        Json result;
        result["switch-usec"] =
            duration_cast<Microseconds>(switch_times_.answered - switch_times_.sent).count();
        return result;
    }

    [[nodiscard]] Json times(const FreezeWindow& window) const {
        const auto usec = [](async::Clock::duration duration) {
            return duration_cast<Microseconds>(duration).count();
        };
        Json result = switch_time();
        if (parts_.quiesce != QuiesceMode::off && !window.held()) result["quiesce"] = window.why();
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

    /// The records of a snapshot that is there.
    [[nodiscard]] Changes records(SnapshotRecord& snapshot) {
        snapshot.disks.clear();
        for (const PlannedOverlay& overlay : overlays().all()) {
            if (overlay.dropped)
                snapshot.excluded.push_back({overlay.disk, overlay.why_dropped});
            else
                snapshot.disks.push_back({overlay.disk, overlay.parent});
        }
        snapshot.status = snapshot.excluded.empty() ? SnapshotStatus::ok : SnapshotStatus::partial;
        Changes changes = overlays().changes();
        changes.put(snapshot);
        if (snapshot.vm) {
            VmRecord vm = engine_.catalog().vm(snapshot.vm);
            vm.current_snapshot = snapshot.id;
            changes.put(std::move(vm)).put(ManifestStale{snapshot.vm, true});
        }
        return changes;
    }

    /// All is done but the records.
    async::Task<> finish(SnapshotRecord snapshot, Json result) {
        Changes changes = records(snapshot);
        result["snapshot"] = object_json({ObjectKind::snapshot, snapshot.id});
        if (!files().lost().empty()) result["not-kept"] = files().lost();
        overlays().make_known();
        co_await job_->succeed(std::move(changes), std::move(result));
        engine_.write_manifests();
    }

    /// The disks were switched, but the memory was not written.
    async::Task<> keep_disks(Error reason) {
        SnapshotRecord snapshot = record();
        snapshot.files = co_await files().settle(false);
        Changes changes = records(snapshot);
        overlays().make_known();
        Error told(
            reason.code(),
            "{}; the snapshot '{}' is kept without memory, of the disks alone (consistency {}): delete it "
            "where that is of no use",
            reason.what(), snapshot.name, word(snapshot.consistency));
        co_await job_->fail(std::move(changes), std::move(told));
        engine_.write_manifests();
    }

    /// Also where the daemon is being stopped: a guest must not stand still until it is started again.
    async::Task<Error> release_guest(Error reason) {
        const auto state = co_await async::asio::this_coro::cancellation_state;
        const bool stopping = state.cancelled() != async::asio::cancellation_type::none;
        async::Deadline end = async::no_deadline;
        if (stopping) {
            co_await async::ignore_cancellation();
            end = async::after(last_settle_limit);
            reason = Error(ErrorCode::interrupted, "the daemon was stopped at step {}", job_->record().step);
        }
        co_await memory_->settle(end);
        co_return reason;
    }

    async::Task<> undo(Error reason) {
        co_await job_->begin_undo();
        std::exception_ptr failure;
        co_await async::keep_failure(overlays().undo(opened_), failure);
        if (failure)
            reason = Error(reason.code(), "{}; not all of it could be undone: {}", reason.what(),
                           to_error(failure).what());
        co_await files().remove();
        Changes changes;
        changes.remove(ObjectKind::snapshot, parts_.snapshot);
        co_await job_->fail(std::move(changes), std::move(reason));
    }

    /// Nobody knows on which side of the switch things are.
    async::Task<> settle(Error reason) {
        const Overlays::Side side = co_await overlays().settle();
        if (side == Overlays::Side::before_switch)
            co_return co_await undo(Error(reason.code(), "{}; the snapshot was undone", reason.what()));
        const JsonReader plan(job_->record().plan, "plan of job " + job_->id().str(), ErrorCode::internal);
        const auto reached = plan.find("consistency");
        if (memory_ && !reached) co_return co_await keep_disks(std::move(reason));
        if (!reached && parts_.quiesce == QuiesceMode::require) {
            std::string why = fmt::format("whether the guest was frozen is not known: {}", reason.what());
            co_return co_await withdraw(std::move(why));
        }
        job_->log().notice("the switch to the new overlays had happened; the snapshot is finished");
        SnapshotRecord snapshot = record();
        Json result;
        if (reached) {
            snapshot.consistency = from_word<Consistency>(reached->string()).value_or(Consistency::crash);
            snapshot.vm_state =
                from_word<VmState>(plan.string_or("vm-state", "")).value_or(snapshot.vm_state);
            result = plan.at("result").json();
        } else {
            result["quiesce"] = fmt::format("not known to have been frozen: {}", reason.what());
        }
        snapshot.files = co_await files().settle(reached.has_value());
        co_await finish(std::move(snapshot), std::move(result));
    }

    Engine& engine_;
    JobPtr job_;
    SnapshotParts parts_;
    std::optional<MemoryWriter> memory_;
    bool opened_ = false;    ///< QEMU may have had the new files
    bool switched_ = false;  ///< or nobody knows
    bool halting_ = false;   ///< QEMU is not what it was, for the memory's sake
    qmp::CallTimes switch_times_{};
};

/// None in the plans of earlier versions.
SnapshotFiles files_in(Engine& engine, const JsonReader& plan) {
    const auto files = plan.find("files");
    return files ? SnapshotFiles::from_plan(engine, *files) : SnapshotFiles(engine);
}

}  // namespace

SnapshotParts::SnapshotParts(Engine& engine, const JsonReader& plan)
    : overlays(Overlays::from_plan(engine, plan)),
      files(files_in(engine, plan)),
      snapshot(id_in(plan.at("snapshot"))),
      quiesce(from_word<QuiesceMode>(plan.at("quiesce").string()).value_or(QuiesceMode::automatic)) {}

Json SnapshotParts::plan() const {
    Json plan = overlays.plan();
    plan["snapshot"] = snapshot.str();
    plan["quiesce"] = word(quiesce);
    plan["files"] = files.plan();
    return plan;
}

async::Task<> take_snapshot(Engine& engine, JobPtr job, SnapshotParts parts,
                            async::Clock::duration freeze_timeout) {
    SnapshotWork work(engine, std::move(job), std::move(parts));
    co_await work.run(freeze_timeout);
}

async::Task<> settle_snapshot(Engine& engine, JobPtr job, SnapshotParts parts) {
    SnapshotWork work(engine, std::move(job), std::move(parts));
    co_await work.recover();
}

}  // namespace volchain::storage
