// SPDX-License-Identifier: MIT
#include "storage/disks/move_disk.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/file.h"
#include "base/text.h"
#include "storage/disks/move_mirror.h"
#include "storage/images/doomed_files.h"
#include "storage/images/volume_lock.h"
#include "storage/jobs/held_volumes.h"
#include "storage/jobs/presence.h"
#include "storage/merges/merge_room.h"
#include "storage/qemu/helper.h"
#include "storage/records/preview_state.h"
#include "storage/vms/live_chain.h"
#include "storage/volumes/copy_file.h"
#include "storage/volumes/copy_volume.h"
#include "storage/volumes/last_written.h"

namespace volchain::storage {
namespace {

constexpr auto rename_limit = std::chrono::seconds(60);
constexpr auto record_again_interval = std::chrono::seconds(5);

void refuse_files_that_are_there(const std::vector<NewFile>& files) {
    for (const NewFile& file : files) {
        const UniqueFd pool = open_directory(file.pool);
        if (::faccessat(pool.get(), file.file.c_str(), F_OK, AT_SYMLINK_NOFOLLOW) == 0)
            throw Error(ErrorCode::already_exists,
                        "{} is there already: an earlier copy, perhaps; look at it, and remove or rename it",
                        quote(file.path()));
        if (errno != ENOENT) throw system_error(errno, "cannot look at " + quote(file.path()));
    }
}

bool on_one_file_system(const std::string& directory, const std::vector<std::string>& others) {
    struct stat here {};
    if (::stat(directory.c_str(), &here) < 0) throw system_error(errno, "cannot look at " + quote(directory));
    return std::all_of(others.begin(), others.end(), [&](const std::string& other) {
        struct stat there {};
        return ::stat(other.c_str(), &there) == 0 && there.st_dev == here.st_dev;
    });
}

class MoveDisk {
  public:
    MoveDisk(Engine& engine, JobPtr job, MovePlan plan)
        : engine_(engine),
          job_(std::move(job)),
          disk_(job_->record().subject.id),
          plan_(std::move(plan)),
          mirror_(engine_, job_, disk_, plan_) {}

    async::Task<> run(std::uint64_t speed) {
        job_->start_speed(speed);
        std::exception_ptr failure;
        co_await async::keep_failure(forward(), failure);
        if (!failure || finished(job_->record().state)) co_return;
        co_await settle(to_error(failure));
    }

    async::Task<> recover() {
        Error reason(ErrorCode::interrupted, "the daemon ended at step {}", job_->record().step);
        co_await settle(std::move(reason));
    }

  private:
    [[nodiscard]] const Catalog& catalog() const noexcept { return engine_.catalog(); }
    [[nodiscard]] Uuid active() const { return catalog().disk(disk_).active; }
    [[nodiscard]] async::Deadline soon() const { return async::after(engine_.settings().command_timeout); }

    [[nodiscard]] NewFile place_of(const MovedVolume& moved) const {
        return plan_.place_of(catalog(), moved);
    }
    [[nodiscard]] std::string new_path(const Uuid& volume) const { return plan_.new_path(catalog(), volume); }
    /// The records say already where the volumes are now.
    [[nodiscard]] bool recorded() const {
        const MovedVolume& first = plan_.volumes.front();
        const VolumeRecord& volume = catalog().volume(first.volume);
        return volume.pool == plan_.pool && volume.file == first.file;
    }

    // --- forward ---

    async::Task<> forward() {
        co_await job_->step("look");
        co_await look();
        co_await job_->step("copy");
        co_await copy();
        if (plan_.live) co_await pass_live();
        co_await job_->undo_step("finish");
        co_await finish();
    }

    async::Task<> look() {
        co_await inspect_chain(engine_, disk_);
        if (!plan_.live)
            for (std::size_t index = 0; index < plan_.volumes.size(); ++index) {
                qmp::ImageLock lock = co_await lock_for_reading(engine_, plan_.volumes[index].volume);
                locks_.push_back(std::move(lock));
            }
        for (const MovedVolume& entry : plan_.volumes)
            total_ +=
                plan_.collapse ? copy_cost(catalog(), entry.volume) : catalog().facts(entry.volume).allocated;
        co_await check_new_places();
        plan_.begun = true;
        job_->set_plan(plan_.json());
    }

    /// A file that is there already belongs to somebody, or was kept for people to look at.
    async::Task<> check_new_places() {
        std::vector<NewFile> targets;
        std::vector<std::string> sources;
        for (const MovedVolume& entry : plan_.volumes) {
            targets.push_back(place_of(entry));
            sources.push_back(entry.from_pool);
        }
        auto measure = [targets, sources] {
            refuse_files_that_are_there(targets);
            const bool one = on_one_file_system(targets.front().pool, sources);
            return std::pair(room_beside(targets.front().path()), one);
        };
        const std::pair<std::uint64_t, bool> measured = co_await engine_.files().run(std::move(measure));
        const auto& [free, one_file_system] = measured;
        // Reflinks take none. What a collapsed copy takes is known only roughly: it waits for room where there is none.
        const bool links = one_file_system && engine_.pool_status(plan_.pool).reflink;
        if (free < total_ && !links && !plan_.collapse)
            throw Error(ErrorCode::no_space, "{} takes {} bytes, and {} are free in {}; nothing was changed",
                        catalog().describe({ObjectKind::disk, disk_}), total_, free,
                        catalog().describe({ObjectKind::pool, plan_.pool}));
    }

    /// Whatever nobody writes to; those below first, so that a copy that is there can be opened.
    async::Task<> copy() {
        job_->progress(0, total_);
        for (std::size_t index = 0; index < plan_.volumes.size(); ++index) {
            const Uuid volume = plan_.volumes[index].volume;
            if (plan_.live && volume == active()) continue;
            if (plan_.collapse)
                co_await copy_collapsed(volume);
            else
                co_await copy_one(volume);
            job_->progress(done_, total_);
        }
    }

    async::Task<> copy_one(Uuid volume) {
        const NewFile target = place_of(*plan_.find(volume));
        co_await copy_file(engine_, job_, volume, target, done_, total_);
        done_ += catalog().facts(volume).allocated;
        const Uuid below = catalog().backing(volume);
        if (below.nil()) co_return;
        std::vector<ImageAccess> images;
        images.emplace_back(target.path(), true);
        const qmp::QemuImg qemu_img = co_await helper_qemu_img(engine_, std::move(images));
        std::string format(word(catalog().volume(below).format));
        co_await qemu_img.change_backing(target.path(), backing_at_new_place(below), std::move(format),
                                         async::after(rename_limit));
        auto flush = [target] { flush_image_file(target); };
        co_await engine_.files().run(std::move(flush));
    }

    /// As it stands in the header of what is on top of it: all that moves lies in one directory.
    [[nodiscard]] std::string backing_at_new_place(const Uuid& below) const {
        const MovedVolume* const entry = plan_.find(below);
        if (entry == nullptr) return catalog().path(catalog().volume(below));
        return entry->file.find(':') == std::string::npos ? entry->file : "./" + entry->file;
    }

    async::Task<> copy_collapsed(Uuid volume) {
        CopyOrder order(volume, place_of(*plan_.find(volume)), standalone_image(catalog(), active()));
        (void)co_await copy_volume(engine_, job_, std::move(order), done_, total_);
        done_ = total_;
    }

    // --- in a VM that runs ---

    async::Task<> pass_live() {
        co_await job_->step("nodes");
        co_await mirror_.make_target();
        co_await mirror_.add_nodes();
        co_await job_->step("mirror");
        co_await mirror_.run(done_, total_);
        co_await mirror_.carry_bitmaps();
        const Job::Unstoppable unstoppable(*job_);
        co_await note_switching(true);
        co_await job_->step_through("switch");
        std::exception_ptr failure;
        co_await async::keep_failure(mirror_.pass(), failure);
        if (!failure) co_return;
        const bool live = engine_.vm(plan_.vm).live();
        if (live) co_await mirror_.break_off();
        std::rethrow_exception(failure);
    }

    /// On the medium: a power cut in that moment must not look as if nothing had begun.
    async::Task<> note_switching(bool switching) {
        plan_.switching = switching;
        job_->set_plan(plan_.json());
        Changes changes;
        job_->put_record(changes);
        co_await engine_.catalog().commit(std::move(changes), Durability::power);
    }

    // --- the end ---

    /// The new places are true: one commit, then the old files go.
    async::Task<> finish() {
        job_->no_return();
        if (!recorded()) co_await record_surely();
        locks_.clear();
        if (plan_.live && engine_.vm(plan_.vm).live()) {
            std::exception_ptr failure;
            co_await async::keep_failure(mirror_.flush(), failure);
            if (failure) co_return co_await keep_old_files(to_error(failure));
            co_await mirror_.remove_old_nodes();
        }
        co_await job_->undo_step("unlink");
        co_await unlink();
    }

    /// Of a disk that the guest has passed over with: the records have to follow, however long they cannot be written.
    async::Task<> record_surely() {
        while (true) {
            std::exception_ptr failure;
            co_await async::keep_failure(record(), failure);
            if (!failure) co_return;
            const Error error = to_error(failure);
            if (!plan_.live || error.code() == ErrorCode::cancelled) std::rethrow_exception(failure);
            job_->log().warning("the guest is on the copy, but that cannot be recorded yet: {}",
                                error.what());
            co_await async::sleep_until(async::after(record_again_interval));
        }
    }

    /// What the guest wrote may be in memory only: the old files are the only ones that are surely on the medium.
    async::Task<> keep_old_files(Error why) {
        Error reason(why.code(), "the disk has moved, but its old files stay: {}", why.what());
        co_await job_->fail(Changes{}, std::move(reason));
    }

    async::Task<> record() {
        std::vector<VolumeFacts> all;
        for (std::size_t index = 0; index < plan_.volumes.size(); ++index) {
            const MovedVolume& entry = plan_.volumes[index];
            const VolumeFormat format = catalog().volume(entry.volume).format;
            auto look = [file = place_of(entry), format] {
                return inspect_image(file.pool, file.file, format);
            };
            VolumeFacts facts = co_await engine_.files().run(std::move(look));
            const MovedVolume& same = plan_.volumes[index];
            if (facts.state != VolumeState::ok || facts.size != catalog().facts(same.volume).size)
                throw Error(ErrorCode::qemu_failed, "{} is not what it should be: {}",
                            quote(place_of(same).path()), facts.problem);
            all.push_back(std::move(facts));
        }
        Changes changes;
        for (const MovedVolume& entry : plan_.volumes) {
            VolumeRecord volume = catalog().volume(entry.volume);
            volume.pool = plan_.pool;
            volume.file = entry.file;
            changes.put(std::move(volume));
        }
        for (const Uuid& volume : superfluous()) superfluous_.add(engine_, volume, changes);
        if (plan_.vm) changes.put(ManifestStale{plan_.vm, true});
        Json plan = plan_.json();
        plan["superfluous"] = superfluous_.plan();
        job_->set_plan(std::move(plan));
        job_->put_record(changes);
        co_await engine_.catalog().commit(std::move(changes), Durability::power);
        for (std::size_t index = 0; index < all.size(); ++index)
            engine_.catalog().set_facts(plan_.volumes[index].volume, std::move(all[index]));
        engine_.write_manifests();
    }

    /// When what is shown stands on nothing any more: layers that no snapshot and no other volume needs. Topmost first.
    [[nodiscard]] std::vector<Uuid> superfluous() const {
        std::vector<Uuid> go;
        if (!plan_.collapse) return go;
        const std::vector<Uuid> chain = catalog().chain(active());
        Uuid above = active();
        for (const Uuid& layer : chain) {
            if (layer == active()) continue;
            const std::vector<Uuid> children = catalog().children(layer);
            const bool needed = catalog().volume(layer).disk != disk_ || children.size() > 1 ||
                                (children.size() == 1 && children.front() != above) || in_snapshot(layer) ||
                                export_holding(catalog(), layer) != nullptr || engine_.holds().held(layer);
            if (needed) break;
            go.push_back(layer);
            above = layer;
        }
        return go;
    }

    [[nodiscard]] bool in_snapshot(const Uuid& volume) const {
        for (const auto& [id, snapshot] : catalog().snapshots())
            for (const SnapshotDisk& part : snapshot.disks)
                if (part.volume == volume) return true;
        return false;
    }

    async::Task<> unlink() {
        DoomedFiles files = DoomedFiles::from_plan(
            JsonReader(job_->record().plan, "plan of job", ErrorCode::internal).at("superfluous"));
        for (auto entry = plan_.volumes.rbegin(); entry != plan_.volumes.rend(); ++entry)
            files.add(entry->from_pool, entry->from_file);
        std::exception_ptr failure;
        co_await async::keep_failure(files.unlink_all(engine_), failure);
        if (failure) {
            const Error why = to_error(failure);
            Error reason(why.code(), "the disk has moved, but a file of its old place stays: {}", why.what());
            co_return co_await job_->fail(Changes{}, std::move(reason));
        }
        Json result;
        result["volumes"] = std::uint64_t{plan_.volumes.size()};
        co_await job_->succeed(Changes{}, std::move(result));
    }

    // --- after a failure, or a crash ---

    async::Task<> settle(Error reason) {
        if (recorded()) co_return co_await finish();
        if (plan_.live) {
            const bool live = co_await runs_or_is_gone(engine_, plan_.vm);
            const bool passed = co_await guest_has_passed(live);
            if (passed) {
                job_->log().notice("{}; the guest is on the copy: going on", reason.what());
                co_return co_await finish();
            }
            if (plan_.switching && !live) co_return co_await settle_by_contents(std::move(reason));
            if (live) co_await mirror_.remove_new_nodes();
        }
        co_await undo(std::move(reason));
    }

    async::Task<bool> guest_has_passed(bool live) {
        if (!live) co_return false;
        co_return co_await mirror_.has_passed();
    }

    /// QEMU is gone, and nobody saw what became of the switch. Neither of the two is removed where they differ.
    async::Task<> settle_by_contents(Error reason) {
        const VolumeFormat format = catalog().volume(active()).format;
        const std::string before = catalog().path(catalog().volume(active()));
        LastWritten witness(before, format, new_path(active()), format);
        std::vector<ImageAccess> images;
        for (const Uuid& layer : catalog().chain(active()))
            images.emplace_back(catalog().path(catalog().volume(layer)), false);
        for (const MovedVolume& entry : plan_.volumes) images.emplace_back(place_of(entry).path(), false);
        const LastWritten::Verdict verdict = co_await witness.judge(engine_, std::move(images));
        if (verdict == LastWritten::Verdict::same) co_return co_await undo(std::move(reason));
        const bool went_on = verdict == LastWritten::Verdict::target;
        const std::string after = new_path(active());
        if (went_on) co_await record();
        Error told(
            ErrorCode::interrupted,
            "daemon and QEMU ended in the moment of the switch from {} to {}, and their contents differ; "
            "the {} is taken for the one that the guest wrote to last; nothing was removed: look at both, "
            "then delete what is superfluous",
            quote(before), quote(after), went_on ? "latter" : "former");
        co_await job_->fail(Changes{}, std::move(told));
    }

    async::Task<> undo(Error reason) {
        co_await job_->begin_undo();
        locks_.clear();
        std::vector<NewFile> made;
        for (auto entry = plan_.volumes.rbegin(); plan_.begun && entry != plan_.volumes.rend(); ++entry)
            made.push_back(place_of(*entry));
        reason = co_await take_back_files(engine_, std::move(made), std::move(reason));
        reason = Error(reason.code(), "{}; the disk is where it was", reason.what());
        co_await job_->fail(Changes{}, std::move(reason));
    }

    Engine& engine_;
    JobPtr job_;
    Uuid disk_;
    MovePlan plan_;
    MoveMirror mirror_;
    std::vector<qmp::ImageLock> locks_;
    DoomedFiles superfluous_;
    std::uint64_t done_ = 0;
    std::uint64_t total_ = 0;
};

async::Task<> run_move(Engine& engine, JobPtr job, MovePlan plan, std::uint64_t speed) {
    MoveDisk operation(engine, std::move(job), std::move(plan));
    co_await operation.run(speed);
}

}  // namespace

async::Task<Uuid> move_disk(Engine& engine, MoveRequest request) {
    const Catalog& catalog = engine.catalog();
    (void)catalog.pool(request.pool);
    const Uuid vm = catalog.disk(request.disk).vm;
    const bool live = co_await ready_to_work(engine, vm);
    co_await engine.inspect_volumes(catalog.volumes_of_disk(request.disk));
    refuse_moved(catalog, request.disk, vm);
    if (vm) check_no_preview(catalog, vm);
    if (live) (void)live_disk(engine, request.disk);
    const MovePlan plan = plan_move(catalog, request, live);
    std::set<Uuid> volumes;
    for (const MovedVolume& entry : plan.volumes) volumes.insert(entry.volume);
    for (const Uuid& volume : volumes) check_not_exported(catalog, volume);
    engine.holds().check_free(volumes);

    JobRequest job("move-disk", {ObjectKind::disk, request.disk}, request.owner_uid);
    job.locks = disk_and_vm(request.disk, vm);
    job.plan = plan.json();
    Operation operation = [&engine, plan, speed = request.speed](JobPtr started) {
        return run_move(engine, std::move(started), plan, speed);
    };
    co_return co_await engine.jobs().start(std::move(job), std::move(operation));
}

async::Task<> recover_move_disk(Engine& engine, JobPtr job) {
    MovePlan plan = MovePlan::parse(job->record());
    MoveDisk operation(engine, std::move(job), std::move(plan));
    co_await operation.recover();
}

std::vector<ObjectId> locks_of_move_disk(const JobRecord& job) {
    return disk_and_vm(job.subject.id, MovePlan::parse(job).vm);
}

}  // namespace volchain::storage
