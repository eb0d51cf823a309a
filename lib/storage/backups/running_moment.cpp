// SPDX-License-Identifier: MIT
//
// The moment of a running VM's disks, held in its QEMU (backup_nodes.h) while the guest runs on.
//
// Steps: files (scratch images), nodes, freeze, hold, thaw, filters, readers; server; or copy.
#include "storage/backups/backup_nodes.h"
#include "storage/backups/backup_place.h"
#include "storage/backups/backup_plan.h"
#include "storage/backups/moment_holder.h"
#include "storage/backups/push_backup.h"
#include "storage/checkpoints/export_bitmap.h"
#include "storage/exports/export_device.h"

namespace volchain::storage {
namespace {

ExportRecord export_in_vm(const BackupRecord& backup, const BackupDisk& disk) {
    ExportRecord shown = export_of_backup(backup, disk);
    shown.state = ExportState::ready;
    shown.server = backup.qemu;
    if (disk.incremental) shown.bitmap = "qemu:dirty-bitmap:" + shown_bitmap_name(backup.since);
    return shown;
}

class RunningMoment final : public MomentHolder {
  public:
    RunningMoment(Engine& engine, JobPtr job, const Uuid& backup)
        : engine_(engine), job_(std::move(job)), id_(backup) {}

    async::Task<HeldMoment> hold(HoldOptions options) override {
        co_await job_->step("files");
        co_await make_files();
        co_await job_->step("nodes");
        nodes_.emplace(engine_, engine_.vm(record().vm).session(), record());
        co_await nodes_->add_scratch();
        HeldMoment held = co_await freeze_and_hold(options);
        co_await job_->step("filters");
        co_await nodes_->put_filters();
        co_await job_->step("readers");
        co_return held;
    }

    async::Task<std::vector<ExportRecord>> show() override {
        co_await nodes_->add_readers();
        co_await job_->step("server");
        const BackupPlace place = place_of_backup(engine_, id_);
        auto make = [place, owner = appliance_process(engine_, record().vm).identity] {
            place.make_for(owner);
        };
        co_await engine_.files().run(std::move(make));
        co_await nodes_->start_server(place.socket());
        auto give = [place, user = record().allowed_uid.value_or(record().owner_uid)] {
            place.give_socket_to(user);
        };
        co_await engine_.files().run(std::move(give));
        co_await nodes_->show();
        co_await look_at_vm();
        std::vector<ExportRecord> exports;
        for (const BackupDisk& disk : record().disks) exports.push_back(export_in_vm(record(), disk));
        co_return exports;
    }

    async::Task<> push(std::vector<PushedFile> files, bool compress) override {
        co_await nodes_->add_copy_sources();
        co_await job_->step("copy");
        co_await push_disks(engine_, job_, *nodes_, std::move(files), compress);
    }

    void let_go() override {}

  private:
    [[nodiscard]] const BackupRecord& record() const { return engine_.catalog().backup(id_); }

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
    async::Task<HeldMoment> freeze_and_hold(HoldOptions options) {
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
        co_await async::keep_result(nodes_->hold(), times, failure);
        const Timestamp moment = now();
        job_->pass("thaw");
        co_await window.close();
        if (failure) std::rethrow_exception(failure);
        if (options.quiesce == QuiesceMode::require && !window.held())
            throw Error(ErrorCode::quiesce_failed, "{}", window.why());
        co_return what_was_held(window, times, options, moment);
    }

    [[nodiscard]] static HeldMoment what_was_held(const FreezeWindow& window, const qmp::CallTimes& times,
                                                  const HoldOptions& options, Timestamp moment) {
        const auto usec = [](async::Clock::duration duration) {
            return std::chrono::duration_cast<Microseconds>(duration).count();
        };
        HeldMoment held(Consistency::crash, moment);
        held.result["hold-usec"] = usec(times.answered - times.sent);
        if (options.quiesce != QuiesceMode::off && !window.held()) held.result["quiesce"] = window.why();
        if (window.times())
            held.result["frozen-usec"] = usec(window.times()->thaw_sent - window.times()->frozen);
        if (window.held())
            held.consistency =
                window.flushes_applications() ? Consistency::application : Consistency::filesystem;
        return held;
    }

    /// So that the new bitmaps are known.
    async::Task<> look_at_vm() {
        std::exception_ptr known_later;
        co_await async::keep_failure(engine_.vm(record().vm).read_disks(), known_later);
    }

    Engine& engine_;
    JobPtr job_;
    Uuid id_;
    std::optional<BackupNodes> nodes_;
};

}  // namespace

std::unique_ptr<MomentHolder> holder_of_running(Engine& engine, JobPtr job, const Uuid& backup) {
    return std::make_unique<RunningMoment>(engine, std::move(job), backup);
}

}  // namespace volchain::storage
