// SPDX-License-Identifier: MIT
//
// The moment of images that no guest writes to: those of a VM that is down, or of a snapshot; shown by storage daemons of their own,
// one for each disk, as exports are, or copied by one.
//
// A VM that is down may be started all the same: a guest that cannot start because somebody reads its disks would be worse off than
// a backup that has to be made anew. So its active images are opened without QEMU's locks, and what proves that nobody wrote to
// them is that their files did not change (image_stamp.h); from a moment on at which we held QEMU's lock on all of them, so that
// nobody could. The new checkpoint is made before that, by a storage daemon that holds the image for writing: what it records is
// all that was written since the moment, or more.
//
// Steps: checkpoint, hold; server, graph, show; or copy.
#include <algorithm>

#include "base/text.h"
#include "qmp/node.h"
#include "storage/backups/moment_holder.h"
#include "storage/backups/push_backup.h"
#include "storage/checkpoints/export_bitmap.h"
#include "storage/checkpoints/stored_bitmap.h"
#include "storage/exports/export_server.h"
#include "storage/images/image_stamp.h"
#include "storage/images/untouched_images.h"
#include "storage/images/volume_lock.h"
#include "storage/qemu/block_job.h"
#include "storage/vms/live_chain.h"
#include "storage/volumes/new_image.h"

namespace volchain::storage {
namespace {

constexpr auto stored_copy_end_limit = std::chrono::seconds(60);
constexpr auto look_at_clock_again = std::chrono::milliseconds(5);
constexpr const char* pushed_node = "pushed";

class StoredMoment final : public MomentHolder {
  public:
    StoredMoment(Engine& engine, JobPtr job, const Uuid& backup)
        : engine_(engine), job_(std::move(job)), id_(backup) {}

    async::Task<HeldMoment> hold(HoldOptions options) override {
        (void)options;  // there is no guest
        const BackupRecord backup = record();
        const bool down = backup.source == BackupSource::down;
        if (!backup.checkpoint.empty()) {
            co_await job_->step("checkpoint");
            co_await make_checkpoint();
        }
        co_await job_->step("hold");
        for (const BackupDisk& part : backup.disks) co_await inspect_layers(engine_, part.volume);
        if (down) co_await lock_and_stamp();
        HeldMoment held(backup.consistency, down ? now() : backup.moment);
        co_return held;
    }

    async::Task<std::vector<ExportRecord>> show() override {
        co_await job_->step("server");
        const std::vector<BackupDisk> parts = record().disks;
        for (const BackupDisk& part : parts) co_await start_server(part);
        co_await job_->step("graph");
        for (Shown& shown : shown_) co_await open(shown);
        co_await job_->step("show");
        for (Shown& shown : shown_) {
            const auto session = shown.daemon->session();
            co_await show_over_nbd(engine_, session, shown.record, shown.node, shown.bitmap);
            shown.record.state = ExportState::ready;
        }
        co_await pass_a_tick();
        std::vector<ExportRecord> exports;
        for (const Shown& shown : shown_) exports.push_back(shown.record);
        co_return exports;
    }

    async::Task<> push(std::vector<PushedFile> files, bool compress) override {
        co_await pass_a_tick();
        locks_.clear();
        co_await job_->step("copy");
        const std::vector<BackupDisk> parts = record().disks;
        std::uint64_t total = 0;
        std::uint64_t done = 0;
        for (const BackupDisk& part : parts) total += size_of(part);
        for (std::size_t disk = 0; disk < parts.size(); ++disk) {
            Copy copy(parts[disk], files[disk]);
            copy.compress = compress;
            copy.done_before = done;
            copy.total = total;
            co_await copy_disk(std::move(copy));
            done += size_of(parts[disk]);
        }
        co_await check_untouched(engine_, record());
    }

    /// What is written from now on shows.
    void let_go() override {
        for (Shown& shown : shown_) {
            Exports::Daemons daemons{shown.daemon};
            engine_.exports().attend(shown.record.id, std::move(daemons));
        }
        locks_.clear();
    }

  private:
    struct Shown {
        ExportRecord record;
        std::shared_ptr<qmp::StorageDaemon> daemon;
        std::string node;
        std::string bitmap;
    };
    /// A class with a constructor, so that it may be handed to coroutines.
    struct Copy {
        Copy(BackupDisk from, PushedFile to) : part(std::move(from)), file(std::move(to)) {}
        BackupDisk part;
        PushedFile file;
        bool compress = false;
        std::uint64_t done_before = 0;
        std::uint64_t total = 0;
    };

    [[nodiscard]] const BackupRecord& record() const { return engine_.catalog().backup(id_); }
    [[nodiscard]] const Catalog& catalog() const { return engine_.catalog(); }
    [[nodiscard]] async::Deadline soon() const { return async::after(engine_.settings().command_timeout); }
    [[nodiscard]] std::uint64_t size_of(const BackupDisk& part) const {
        return catalog().facts(part.volume).size;
    }

    async::Task<> put_record(ExportRecord changed) {
        Changes changes;
        changes.put(std::move(changed));
        co_await engine_.catalog().commit(std::move(changes), Durability::process);
    }

    // --- holding ---

    async::Task<> make_checkpoint() {
        const BackupRecord backup = record();
        for (const BackupDisk& part : backup.disks)
            if (part.tracked) co_await add_stored_bitmap(engine_, part.volume, backup.checkpoint);
    }

    /// All of them before the first stamp: there is one moment of all disks.
    async::Task<> lock_and_stamp() {
        BackupRecord changed = record();
        for (const BackupDisk& part : changed.disks) {
            qmp::ImageLock lock = co_await lock_for_reading(engine_, part.volume);
            locks_.push_back(std::move(lock));
        }
        for (std::size_t disk = 0; disk < changed.disks.size(); ++disk) {
            stamps_.push_back(ImageStamp::of(locks_[disk].fd()));
            changed.disks[disk].stamp = stamps_.back().str();
        }
        Changes changes;
        changes.put(std::move(changed));
        co_await engine_.catalog().commit(std::move(changes), Durability::process);
    }

    /// Until what is written to the images shows; it has not been, as long as they are locked.
    async::Task<> pass_a_tick() {
        const auto passed = [](const ImageStamp& stamp) { return stamp.tick_passed(now()); };
        while (!std::all_of(stamps_.begin(), stamps_.end(), passed))
            co_await async::sleep_until(async::after(look_at_clock_again));
    }

    // --- showing ---

    async::Task<async::Identity> who_opens(Uuid volume) {
        std::vector<ImageAccess> images;
        for (const Uuid& layer : catalog().chain(volume))
            images.emplace_back(catalog().path(catalog().volume(layer)), false);
        co_return co_await identity_for(engine_, std::move(images));
    }

    async::Task<> start_server(BackupDisk part) {
        const async::Identity owner = co_await who_opens(part.volume);
        ExportServerOptions options(owner);
        Shown shown;
        shown.record = catalog().exported(part.exported);
        const ExportRecord before = shown.record;
        StartedExportServer started = co_await start_export_server(engine_, before, std::move(options));
        shown.daemon = started.process.daemon;
        shown.record.server = started.process.mark;
        // From now on it is also found where it does not answer.
        co_await put_record(shown.record);
        shown_.push_back(std::move(shown));
    }

    async::Task<> open(Shown& shown) {
        const auto session = shown.daemon->session();
        shown.node = co_await open_export_layers(engine_, session, shown.record);
        if (!is_incremental(shown.record.disk)) co_return;
        shown.bitmap = co_await add_merged_bitmap(session, shown.node, shown.node, record().since, soon());
        shown.record.bitmap = "qemu:dirty-bitmap:" + shown.bitmap;
    }

    [[nodiscard]] bool is_incremental(const Uuid& disk) const {
        const auto& parts = record().disks;
        return std::any_of(parts.begin(), parts.end(),
                           [&](const BackupDisk& part) { return part.disk == disk && part.incremental; });
    }

    // --- copying ---

    async::Task<> copy_disk(Copy copy) {
        const VolumeRecord& model = catalog().volume(copy.part.volume);
        auto make = [file = copy.file, size = size_of(copy.part), pool = catalog().pool(model.pool).path,
                     image = model.file] { make_pushed_file(file, size, pool, image); };
        co_await engine_.files().run(std::move(make));
        std::vector<ImageAccess> images;
        for (const Uuid& layer : catalog().chain(copy.part.volume))
            images.emplace_back(catalog().path(catalog().volume(layer)), false);
        const auto helper = co_await start_copying_daemon(engine_, std::move(images), copy.file.part_path());
        const PushedFile file = copy.file;
        co_await run_copy(helper->session(), std::move(copy));
        const bool clean = co_await helper->stop(soon());
        if (!clean) throw Error(ErrorCode::qemu_failed, "the storage daemon did not end in order");
        auto flush = [file] { flush_image_file(NewFile(file.directory, file.part)); };
        co_await engine_.files().run(std::move(flush));
    }

    async::Task<> run_copy(std::shared_ptr<qmp::Session> session, Copy copy) {
        const bool down = record().source == BackupSource::down;
        const qmp::NodeOptions plain;
        std::vector<PlannedLayer> layers = plan_layers(catalog(), id_, copy.part.volume);
        const std::string top = layers.front().node;
        const qmp::Access access = down ? qmp::Access::shared : qmp::Access::read_only;
        co_await add_layers(engine_, session, std::move(layers), plain, access);
        std::string changes;
        if (copy.part.incremental)
            changes = co_await add_merged_bitmap(session, top, top, record().since, soon());
        Json target = pushed_image_node(pushed_node, copy.file.part_path());
        (void)co_await session->execute("blockdev-add", std::move(target), soon());
        BlockJob block_job(engine_, job_, session, "push", copy.file.part_path());
        block_job.count(copy.done_before, copy.total);
        co_await block_job.start("blockdev-backup", copy_arguments(top, changes, copy.compress));
        auto end =
            async::first_of(block_job.run_until(BlockJob::Goal::ended), until_touched(engine_, record()));
        const auto copied = co_await std::move(end);
        if (!copied) co_await check_untouched(engine_, record());
        co_await block_job.finish(async::after(stored_copy_end_limit));
    }

    [[nodiscard]] static Json copy_arguments(const std::string& from, const std::string& changes,
                                             bool compress) {
        Json arguments{{"device", from}, {"target", pushed_node}, {"sync", "full"}};
        if (!changes.empty()) {
            arguments["sync"] = "bitmap";
            arguments["bitmap"] = changes;
            arguments["bitmap-mode"] = "never";
        }
        if (compress) arguments["compress"] = true;
        return arguments;
    }

    Engine& engine_;
    JobPtr job_;
    Uuid id_;
    std::vector<qmp::ImageLock> locks_;
    std::vector<ImageStamp> stamps_;
    std::vector<Shown> shown_;
};

}  // namespace

std::unique_ptr<MomentHolder> holder_of_stored(Engine& engine, JobPtr job, const Uuid& backup) {
    return std::make_unique<StoredMoment>(engine, std::move(job), backup);
}

}  // namespace volchain::storage
