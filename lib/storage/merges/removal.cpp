// SPDX-License-Identifier: MIT
#include "storage/merges/removal.h"

#include <algorithm>

#include "base/text.h"
#include "storage/merges/merge.h"

namespace volchain::storage {
namespace {

class RemovalWork {
  public:
    RemovalWork(Engine& engine, JobPtr job, RemovalOrder order)
        : engine_(engine), job_(std::move(job)), order_(std::move(order)) {}

    /// From wherever it is.
    async::Task<> run() {
        job_->start_speed(order_.speed);
        std::exception_ptr failure;
        const Uuid begun = order_.step ? order_.step->disk : Uuid{};
        co_await async::keep_failure(go_on(), failure);
        const Uuid given_up = failure ? begun : Uuid{};
        for (std::size_t index = 0; index < order_.disks.size(); ++index) {
            if (failure && to_error(failure).code() == ErrorCode::cancelled) break;
            if (order_.disks[index].disk == given_up) continue;
            std::exception_ptr of_disk;
            co_await async::keep_failure(run_disk(index), of_disk);
            if (!of_disk) continue;
            note_failure(order_.disks[index].disk, of_disk, failure);
        }
        if (!failure) co_await async::keep_failure(drop_snapshot_files(), failure);
        if (failure)
            co_await fail(to_error(failure));
        else
            co_await succeed();
    }

  private:
    [[nodiscard]] const Catalog& catalog() const noexcept { return engine_.catalog(); }

    void note_failure(const Uuid& disk, const std::exception_ptr& of_disk, std::exception_ptr& first) const {
        const Error error = to_error(of_disk).during(catalog().describe({ObjectKind::disk, disk}));
        if (first) {
            job_->log().warning("{}", error.what());
            return;
        }
        first = std::make_exception_ptr(error);
    }

    /// What a crash left in the middle.
    async::Task<> go_on() {
        co_await remove_files();
        if (!order_.step) co_return;
        MergeStep step = *order_.step;
        co_await run_step(std::move(step));
    }

    async::Task<> run_disk(std::size_t index) {
        if (order_.disks[index].first) {
            MergeStep first = *order_.disks[index].first;
            co_await run_step(std::move(first));
            order_.disks[index].first.reset();
        }
        while (true) {
            co_await engine_.inspect_volumes(catalog().volumes_of_disk(order_.disks[index].disk));
            std::optional<MergeStep> next = next_step(order_.disks[index], {});
            if (!next) break;
            // Asked of QEMU, for which deep chains are slow: only where something is left to do.
            const MergeLimits limits = co_await merge_limits(engine_, order_.disks[index].disk);
            next = next_step(order_.disks[index], limits);
            if (!next) break;
            co_await run_step(*std::move(next));
        }
    }

    [[nodiscard]] std::optional<MergeStep> next_step(const DiskWork& work, const MergeLimits& limits) const {
        std::set<Uuid> unwanted;
        for (const Uuid& volume : work.unwanted) {
            if (!catalog().has({ObjectKind::volume, volume})) continue;
            if (order_.only_drop && !catalog().children(volume).empty()) continue;
            unwanted.insert(volume);
        }
        if (unwanted.empty() && order_.only_drop) return std::nullopt;
        const Direction direction = work.upwards ? Direction::stream : order_.direction;
        return next_merge_step(catalog(), work.disk, unwanted, direction, limits);
    }

    async::Task<> run_step(MergeStep step) {
        order_.step = step;
        job_->set_plan(order_.json());
        if (step.kind == MergeKind::commit || step.kind == MergeKind::stream) {
            Merge merge(engine_, job_, step);
            std::exception_ptr failure;
            co_await async::keep_failure(merge.run(order_.copied, total_bytes()), failure);
            if (failure && merge.outrun() && turn_upwards(step)) co_return;
            if (failure && merge.outrun()) throw_outrun(failure);
            if (failure) std::rethrow_exception(failure);
            order_.copied += step.cost;
        }
        co_await settle(std::move(step));
        co_await remove_files();
    }

    [[noreturn]] static void throw_outrun(const std::exception_ptr& failure) {
        const Error error = to_error(failure);
        throw Error(error.code(),
                    "{}; try again when the guest writes less, or merge in the direction 'stream', which "
                    "does not wait "
                    "for it",
                    error.what());
    }

    /// What the commit has written to the lower volume is in the upper one, too: to copy the rest up into it is as good, takes
    /// what it takes, but never waits for the guest. False where the direction was the caller's choice.
    bool turn_upwards(const MergeStep& step) {
        if (order_.direction != Direction::automatic) return false;
        for (DiskWork& work : order_.disks) {
            if (work.disk != step.disk || work.first || work.upwards) continue;
            work.upwards = true;
            order_.step.reset();
            job_->set_plan(order_.json());
            job_->log().notice(
                "{}: the guest writes faster than its data can be written down; what is below is "
                "copied up instead",
                catalog().describe({ObjectKind::disk, step.disk}));
            return true;
        }
        return false;
    }

    [[nodiscard]] std::uint64_t total_bytes() const {
        return order_.copied + (order_.step ? order_.step->cost : 0);
    }

    /// The records after a step: one commit.
    async::Task<> settle(MergeStep step) {
        const Job::Unstoppable unstoppable(*job_);
        Changes changes;
        release_parts(step, changes);
        if (step.kind == MergeKind::commit) take_place(step, changes);
        if (step.kind == MergeKind::keep) mark(step.upper, VolumeMark::leftover, changes);
        const std::set<Uuid> leaving(step.removed.begin(), step.removed.end());
        for (const Uuid& volume : step.removed) {
            check_nothing_stands_on(engine_, volume, leaving);
            order_.files.add(engine_, volume, changes);
        }
        for (const Uuid& volume : step.settled)
            for (DiskWork& work : order_.disks) work.unwanted.erase(volume);
        const Uuid vm = catalog().disk(step.disk).vm;
        if (vm) changes.put(ManifestStale{vm, true});
        order_.step.reset();
        job_->set_plan(order_.json());
        job_->put_record(changes);
        co_await engine_.catalog().commit(std::move(changes), Durability::power);
        engine_.write_manifests();
    }

    /// The snapshots that are deleted let go of what the step was about.
    void release_parts(const MergeStep& step, Changes& changes) {
        for (const DoomedSnapshot& doomed : order_.snapshots) {
            if (!catalog().has({ObjectKind::snapshot, doomed.id})) continue;
            SnapshotRecord snapshot = catalog().snapshot(doomed.id);
            const auto gone = [&](const SnapshotDisk& part) {
                return std::find(step.settled.begin(), step.settled.end(), part.volume) != step.settled.end();
            };
            if (std::erase_if(snapshot.disks, gone) > 0) changes.put(std::move(snapshot));
        }
    }

    /// After a commit the lower volume is what the upper one was.
    void take_place(const MergeStep& step, Changes& changes) {
        const bool leftover = catalog().volume(step.upper).mark == VolumeMark::leftover;
        mark(step.lower, leftover ? VolumeMark::leftover : VolumeMark::none, changes);
        DiskRecord disk = catalog().disk(step.disk);
        if (disk.active == step.upper) {
            disk.active = step.lower;
            changes.put(std::move(disk));
        }
        for (const auto& [id, snapshot] : catalog().snapshots()) {
            SnapshotRecord changed = snapshot;
            bool named = false;
            for (SnapshotDisk& part : changed.disks)
                if (part.volume == step.upper) {
                    part.volume = step.lower;
                    named = true;
                }
            if (named) changes.put(std::move(changed));
        }
    }

    void mark(const Uuid& volume, VolumeMark mark, Changes& changes) const {
        VolumeRecord record = catalog().volume(volume);
        record.mark = mark;
        changes.put(std::move(record));
    }

    async::Task<> remove_files() {
        if (order_.files.empty()) co_return;
        const Job::Unstoppable unstoppable(*job_);
        co_await job_->step_through("unlink");
        std::exception_ptr failure;
        co_await async::keep_failure(order_.files.unlink_all(engine_), failure);
        if (failure) co_return co_await keep_files(to_error(failure));
        order_.files = DoomedFiles();
        job_->set_plan(order_.json());
    }

    /// With records again, as leftovers.
    async::Task<> keep_files(Error why) {
        if (why.code() == ErrorCode::cancelled) throw why;  // shutting down: recovery goes on with it
        Changes changes;
        std::vector<Uuid> volumes = order_.files.give_back(changes);
        order_.files = DoomedFiles();
        job_->set_plan(order_.json());
        job_->put_record(changes);
        co_await engine_.catalog().commit(std::move(changes), Durability::power);
        co_await engine_.inspect_volumes(std::move(volumes));
        throw Error(
            why.code(),
            "{}; nothing needs that file any more: it stays as a leftover volume, to be deleted when that is "
            "mended; or it goes with the next snapshot of the disk that is deleted",
            why.what());
    }

    // --- the end ---

    async::Task<> succeed() {
        Changes changes;
        for (const DoomedSnapshot& doomed : order_.snapshots) forget(doomed.id, changes);
        Json result = Json::object();
        if (order_.result) result["volume"] = object_json({ObjectKind::volume, order_.result});
        co_await job_->succeed(std::move(changes), std::move(result));
        engine_.write_manifests();
    }

    /// Memory and copies of variable stores. Where one cannot go, it is nobody's, and the next check of a disk finds it.
    async::Task<> drop_snapshot_files() {
        Changes changes;
        for (const DoomedSnapshot& doomed : order_.snapshots) {
            if (!catalog().has({ObjectKind::snapshot, doomed.id})) continue;
            SnapshotRecord snapshot = catalog().snapshot(doomed.id);
            for (const SnapshotFile& file : std::exchange(snapshot.files, {}))
                order_.files.add(catalog().pool(file.pool).path, file.file);
            changes.put(std::move(snapshot));
        }
        if (order_.files.empty()) co_return;
        job_->set_plan(order_.json());
        job_->put_record(changes);
        co_await engine_.catalog().commit(std::move(changes), Durability::power);
        co_await job_->step_through("unlink");
        std::exception_ptr failure;
        co_await async::keep_failure(order_.files.unlink_all(engine_), failure);
        if (failure && to_error(failure).code() == ErrorCode::cancelled) std::rethrow_exception(failure);
        if (failure) job_->log().warning("a file of a snapshot stays: {}", to_error(failure).what());
        order_.files = DoomedFiles();
        job_->set_plan(order_.json());
    }

    /// Its children become those of its parent.
    void forget(const Uuid& id, Changes& changes) {
        if (!catalog().has({ObjectKind::snapshot, id})) return;
        const Uuid parent = surviving_parent(catalog().snapshot(id).parent);
        for (const auto& [other, snapshot] : catalog().snapshots()) {
            if (snapshot.parent != id || is_doomed(other)) continue;
            SnapshotRecord child = snapshot;
            child.parent = parent;
            changes.put(std::move(child));
        }
        const Uuid vm = catalog().snapshot(id).vm;
        if (vm && catalog().vm(vm).current_snapshot == id) {
            VmRecord record = catalog().vm(vm);
            record.current_snapshot = parent;
            changes.put(std::move(record));
        }
        if (vm) changes.put(ManifestStale{vm, true});
        changes.remove(ObjectKind::snapshot, id);
    }

    [[nodiscard]] bool is_doomed(const Uuid& snapshot) const {
        return std::any_of(order_.snapshots.begin(), order_.snapshots.end(),
                           [&](const DoomedSnapshot& doomed) { return doomed.id == snapshot; });
    }
    [[nodiscard]] Uuid surviving_parent(Uuid parent) const {
        while (parent && is_doomed(parent)) parent = catalog().snapshot(parent).parent;
        return parent;
    }

    async::Task<> fail(Error reason) {
        Changes changes;
        bool halfway = false;
        for (const DoomedSnapshot& doomed : order_.snapshots) {
            if (!catalog().has({ObjectKind::snapshot, doomed.id})) continue;
            SnapshotRecord snapshot = catalog().snapshot(doomed.id);
            const bool whole =
                snapshot.disks.size() == doomed.parts &&
                std::none_of(snapshot.disks.begin(), snapshot.disks.end(), [&](const auto& part) {
                    return catalog().volume(part.volume).mark == VolumeMark::illegal;
                });
            halfway = halfway || !whole;
            snapshot.status = whole ? doomed.before : SnapshotStatus::failed;
            if (snapshot.vm) changes.put(ManifestStale{snapshot.vm, true});
            changes.put(std::move(snapshot));
        }
        if (halfway)
            reason = Error(reason.code(),
                           "{}; the deletion ended halfway: nothing else is affected, and it is finished by "
                           "deleting the "
                           "snapshot again",
                           reason.what());
        co_await job_->fail(std::move(changes), std::move(reason));
        engine_.write_manifests();
    }

    Engine& engine_;
    JobPtr job_;
    RemovalOrder order_;
};

}  // namespace

async::Task<> carry_out(Engine& engine, JobPtr job, RemovalOrder order) {
    RemovalWork work(engine, std::move(job), std::move(order));
    co_await work.run();
}

}  // namespace volchain::storage
