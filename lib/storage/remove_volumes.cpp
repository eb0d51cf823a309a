// SPDX-License-Identifier: MIT
#include "storage/remove_volumes.h"

#include <algorithm>

#include "base/text.h"
#include "storage/doomed_files.h"
#include "storage/held_volumes.h"
#include "storage/merge.h"
#include "storage/preview_state.h"

namespace volchain::storage {
namespace {

// --- the plan ----------------------------------------------------------------------------------------------

struct DiskWork {
    Uuid disk;
    std::set<Uuid> unwanted;         ///< volumes that are to go
    std::optional<MergeStep> first;  ///< a step that is not found by looking for unwanted volumes
    bool upwards =
        false;  ///< the guest writes faster than its data can be written down: it is left where it is
};

struct DoomedSnapshot {
    Uuid id;
    SnapshotStatus before{};
    std::size_t parts = 0;  ///< disks, when it began
};

/// All that the job has to remember.
struct Order {
    std::vector<DiskWork> disks;
    std::vector<DoomedSnapshot> snapshots;
    Direction direction = Direction::automatic;
    bool only_drop = false;  ///< unwanted volumes go only where nothing stands on them
    std::uint64_t speed = 0;
    std::uint64_t copied = 0;
    Uuid result;  ///< a volume
    std::vector<ObjectId> locks;
    std::optional<MergeStep> step;  ///< the one under way
    DoomedFiles files;              ///< of the one before

    [[nodiscard]] Json json() const;
    [[nodiscard]] static Order parse(const Json& plan);
};

Json work_json(const DiskWork& work) {
    Json entry;
    entry["disk"] = work.disk.str();
    entry["unwanted"] = Json::array();
    for (const Uuid& volume : work.unwanted) entry["unwanted"].push_back(volume.str());
    if (work.first) entry["first"] = work.first->json();
    if (work.upwards) entry["upwards"] = true;
    return entry;
}

DiskWork parse_work(const JsonReader& entry) {
    DiskWork work;
    work.disk = id_in(entry.at("disk"));
    for (const JsonReader& volume : entry.at("unwanted").elements()) work.unwanted.insert(id_in(volume));
    if (const auto first = entry.find("first")) work.first = MergeStep::parse(*first);
    work.upwards = entry.find("upwards").has_value();
    return work;
}

Json Order::json() const {
    Json plan;
    plan["disks"] = Json::array();
    for (const DiskWork& work : disks) plan["disks"].push_back(work_json(work));
    plan["snapshots"] = Json::array();
    for (const DoomedSnapshot& snapshot : snapshots)
        plan["snapshots"].push_back(
            {{"id", snapshot.id.str()}, {"before", word(snapshot.before)}, {"parts", snapshot.parts}});
    plan["direction"] = word(direction);
    plan["only-drop"] = only_drop;
    plan["speed"] = speed;
    plan["copied"] = copied;
    plan["result"] = result.str();
    plan["locks"] = Json::array();
    for (const ObjectId& object : locks) plan["locks"].push_back(object_json(object));
    if (step) plan["step"] = step->json();
    plan["files"] = files.plan();
    return plan;
}

std::vector<ObjectId> parse_locks(const JsonReader& plan) {
    std::vector<ObjectId> locks;
    for (const JsonReader& object : plan.at("locks").elements()) {
        const auto kind = from_word<ObjectKind>(object.at("kind").string());
        locks.push_back({kind.value_or(ObjectKind::disk), id_in(object.at("id"))});
    }
    return locks;
}

Order Order::parse(const Json& document) {
    const JsonReader plan(document, "plan of a merge", ErrorCode::internal);
    Order order;
    for (const JsonReader& entry : plan.at("disks").elements()) order.disks.push_back(parse_work(entry));
    for (const JsonReader& entry : plan.at("snapshots").elements()) {
        const auto before = from_word<SnapshotStatus>(entry.at("before").string());
        order.snapshots.push_back(
            {id_in(entry.at("id")), before.value_or(SnapshotStatus::failed), entry.at("parts").u64()});
    }
    order.direction = from_word<Direction>(plan.at("direction").string()).value_or(Direction::automatic);
    order.only_drop = plan.at("only-drop").boolean();
    order.speed = plan.at("speed").u64();
    order.copied = plan.at("copied").u64();
    order.result = id_in(plan.at("result"));
    order.locks = parse_locks(plan);
    if (const auto step = plan.find("step")) order.step = MergeStep::parse(*step);
    order.files = DoomedFiles::from_plan(plan.at("files"));
    return order;
}

// --- the operation -----------------------------------------------------------------------------------------

class RemoveVolumes {
  public:
    RemoveVolumes(Engine& engine, JobPtr job, Order order)
        : engine_(engine), job_(std::move(job)), order_(std::move(order)) {}

    /// From wherever it is.
    async::Task<> run() {
        if (order_.speed != 0) job_->set_speed(order_.speed);
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
            const std::set<Uuid> recorded = co_await recorded_volumes(engine_, order_.disks[index].disk);
            std::optional<MergeStep> next = next_step(order_.disks[index], recorded);
            if (!next) break;
            co_await run_step(*std::move(next));
        }
    }

    [[nodiscard]] std::optional<MergeStep> next_step(const DiskWork& work,
                                                     const std::set<Uuid>& recorded) const {
        std::set<Uuid> unwanted;
        for (const Uuid& volume : work.unwanted) {
            if (!catalog().has({ObjectKind::volume, volume})) continue;
            if (order_.only_drop && !catalog().children(volume).empty()) continue;
            unwanted.insert(volume);
        }
        if (unwanted.empty() && order_.only_drop) return std::nullopt;
        const Direction direction = work.upwards ? Direction::stream : order_.direction;
        return next_merge_step(catalog(), work.disk, unwanted, direction, recorded);
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
    Order order_;
};

async::Task<> run(Engine& engine, JobPtr job, Order order) {
    RemoveVolumes operation(engine, std::move(job), std::move(order));
    co_await operation.run();
}

// --- what is asked for -------------------------------------------------------------------------------------

/// Nobody else may work on the disk, and its VM can be asked.
async::Task<> check_disk(Engine& engine, Uuid disk) {
    const DiskRecord& record = engine.catalog().disk(disk);
    const Uuid vm = record.vm;
    // What a volume holds, and with it what is cheaper, is seldom what it was at the last look.
    co_await engine.inspect_volumes(engine.catalog().volumes_of_disk(disk));
    if (!vm) co_return;
    co_await engine.vm(vm).look_now(async::after(engine.settings().greeting_timeout * 2));
    if (!engine.vm(vm).live() && !engine.vm(vm).down())
        (void)engine.vm(vm).session();  // throws Unreachable, and why
}

/// The volumes that a step writes to or does away with.
std::set<Uuid> changed_by(const MergeStep& step) {
    std::set<Uuid> volumes(step.removed.begin(), step.removed.end());
    if (step.kind == MergeKind::commit) volumes.insert(step.lower);
    if (step.kind == MergeKind::stream) volumes.insert(step.upper);
    return volumes;
}

/// Those that the order is known to change. What is done on the way to that changes nothing else that anybody could hold:
/// who holds a volume that stands on one that is to go, holds that one, too.
std::set<Uuid> changed_by(const Order& order) {
    std::set<Uuid> volumes;
    for (const DiskWork& work : order.disks) {
        volumes.insert(work.unwanted.begin(), work.unwanted.end());
        if (work.first) volumes.merge(changed_by(*work.first));
    }
    if (order.step) volumes.merge(changed_by(*order.step));
    return volumes;
}

void check_nothing_is_exported(const Catalog& catalog, const Order& order) {
    for (const DoomedSnapshot& doomed : order.snapshots) check_snapshot_not_exported(catalog, doomed.id);
    for (const Uuid& volume : changed_by(order)) check_not_exported(catalog, volume);
}

void add_lock(std::vector<ObjectId>& locks, const ObjectId& object) {
    if (object.id && std::find(locks.begin(), locks.end(), object) == locks.end()) locks.push_back(object);
}

void add_disk_locks(const Catalog& catalog, const Uuid& disk, std::vector<ObjectId>& locks) {
    add_lock(locks, {ObjectKind::disk, disk});
    add_lock(locks, {ObjectKind::vm, catalog.disk(disk).vm});
}

async::Task<Uuid> start(Engine& engine, std::string kind, ObjectId subject, Order order, MergeOptions options,
                        Changes changes) {
    for (const DiskWork& work : order.disks) co_await check_disk(engine, work.disk);
    for (const DiskWork& work : order.disks) add_disk_locks(engine.catalog(), work.disk, order.locks);
    for (const ObjectId& object : order.locks)
        if (object.kind == ObjectKind::vm) check_no_preview(engine.catalog(), object.id);
    // From here to the locks nothing is waited for: no export can come between.
    check_nothing_is_exported(engine.catalog(), order);
    engine.holds().check_free(changed_by(order));
    order.speed = options.speed;
    JobRequest request(std::move(kind), subject, options.owner_uid);
    request.locks = order.locks;
    request.plan = order.json();
    request.changes = std::move(changes);
    Operation operation = [&engine, shared = std::make_shared<Order>(std::move(order))](JobPtr job) {
        return run(engine, std::move(job), std::move(*shared));
    };
    co_return co_await engine.jobs().start(std::move(request), std::move(operation));
}

/// The snapshot and, if asked for, all that were taken after it.
std::vector<Uuid> subtree(const Catalog& catalog, const Uuid& root, bool children) {
    std::vector<Uuid> all{root};
    for (std::size_t next = 0; children && next < all.size(); ++next)
        for (const auto& [id, snapshot] : catalog.snapshots())
            if (snapshot.parent == all[next]) all.push_back(id);
    return all;
}

DiskWork& work_on(Order& order, const Uuid& disk) {
    const auto known = std::find_if(order.disks.begin(), order.disks.end(),
                                    [&](const DiskWork& work) { return work.disk == disk; });
    if (known != order.disks.end()) return *known;
    DiskWork work;
    work.disk = disk;
    return order.disks.emplace_back(std::move(work));
}

/// What a deletion that ended halfway could not remove may be on disks that the snapshot names no more.
void add_leftovers(const Catalog& catalog, const Uuid& vm, Order& order) {
    if (vm.nil()) return;
    for (const Uuid& disk : catalog.disks_of_vm(vm))
        for (const Uuid& volume : catalog.volumes_of_disk(disk))
            if (catalog.volume(volume).mark == VolumeMark::leftover) (void)work_on(order, disk);
}

/// Of a snapshot that is to be deleted: the disks and volumes.
void add_snapshot(const Catalog& catalog, const Uuid& id, Order& order, Changes& changes) {
    SnapshotRecord snapshot = catalog.snapshot(id);
    if (snapshot.status == SnapshotStatus::creating || snapshot.status == SnapshotStatus::deleting)
        throw Error(ErrorCode::busy, "{} is being {}", catalog.describe({ObjectKind::snapshot, id}),
                    snapshot.status == SnapshotStatus::creating ? "created" : "deleted");
    order.snapshots.push_back({id, snapshot.status, snapshot.disks.size()});
    for (const SnapshotDisk& part : snapshot.disks) {
        if (!catalog.has({ObjectKind::disk, part.disk}) || !catalog.has({ObjectKind::volume, part.volume}))
            continue;
        work_on(order, part.disk).unwanted.insert(part.volume);
    }
    if (snapshot.status == SnapshotStatus::failed) add_leftovers(catalog, snapshot.vm, order);
    snapshot.status = SnapshotStatus::deleting;
    changes.put(std::move(snapshot));
}

/// A volume that others name stays.
void check_unnamed(const Catalog& catalog, const Uuid& volume, std::string_view way_out) {
    for (const auto& [id, snapshot] : catalog.snapshots())
        for (const SnapshotDisk& part : snapshot.disks)
            if (part.volume == volume)
                throw Error(ErrorCode::in_use, "{} holds the state of {}; {}",
                            catalog.describe({ObjectKind::volume, volume}),
                            catalog.describe({ObjectKind::snapshot, id}), way_out);
    const DiskRecord& disk = catalog.disk(catalog.volume(volume).disk);
    if (disk.active == volume || disk.former == volume)
        throw Error(ErrorCode::in_use, "{} is the active volume of {}",
                    catalog.describe({ObjectKind::volume, volume}),
                    catalog.describe({ObjectKind::disk, disk.id}));
}

}  // namespace

async::Task<Uuid> delete_snapshot(Engine& engine, Uuid snapshot, bool children, MergeOptions options) {
    const Catalog& catalog = engine.catalog();
    Order order;
    Changes changes;
    for (const Uuid& id : subtree(catalog, snapshot, children)) {
        add_snapshot(catalog, id, order, changes);
        add_lock(order.locks, {ObjectKind::vm, catalog.snapshot(id).vm});
    }
    const ObjectId subject{ObjectKind::snapshot, snapshot};
    co_return co_await start(engine, "delete-snapshot", subject, std::move(order), options,
                             std::move(changes));
}

async::Task<Uuid> merge_volume(Engine& engine, Uuid volume, Direction direction, MergeOptions options) {
    const Catalog& catalog = engine.catalog();
    check_unnamed(catalog, volume, "delete that snapshot instead");
    if (catalog.children(volume).empty())
        throw Error(ErrorCode::unsupported,
                    "nothing stands on {} that it could be merged with; it can be deleted",
                    catalog.describe({ObjectKind::volume, volume}));
    Order order;
    order.direction = direction;
    order.disks.push_back({catalog.volume(volume).disk, {volume}, {}});
    (void)next_merge_step(catalog, order.disks.front().disk, {volume}, direction,
                          {});  // throws what stands in the way
    const ObjectId subject{ObjectKind::volume, volume};
    co_return co_await start(engine, "merge-volume", subject, std::move(order), options, Changes());
}

async::Task<Uuid> commit_volume(Engine& engine, Uuid volume, Uuid base, MergeOptions options) {
    Order order;
    order.disks.push_back(
        {engine.catalog().volume(volume).disk, {}, commit_step(engine.catalog(), volume, base)});
    order.result = base;
    const ObjectId subject{ObjectKind::volume, volume};
    co_return co_await start(engine, "commit-volume", subject, std::move(order), options, Changes());
}

async::Task<Uuid> delete_volume(Engine& engine, Uuid volume, MergeOptions options) {
    const Catalog& catalog = engine.catalog();
    check_removable(engine, volume, {});
    Order order;
    order.only_drop = true;
    order.disks.push_back({catalog.volume(volume).disk, {volume}, {}});
    const ObjectId subject{ObjectKind::volume, volume};
    co_return co_await start(engine, "delete-volume", subject, std::move(order), options, Changes());
}

async::Task<Uuid> flatten_disk(Engine& engine, Uuid disk, MergeOptions options) {
    const Catalog& catalog = engine.catalog();
    const Uuid active = catalog.disk(disk).active;
    Order order;
    order.only_drop = true;
    order.result = active;
    DiskWork work;
    work.disk = disk;
    work.first = flatten_step(catalog, active);
    for (const Uuid& layer : catalog.chain(active)) {
        if (layer == active || catalog.volume(layer).disk != disk) continue;
        const bool named =
            std::any_of(catalog.snapshots().begin(), catalog.snapshots().end(), [&](const auto& entry) {
                const auto& parts = entry.second.disks;
                return std::any_of(parts.begin(), parts.end(),
                                   [&](const auto& part) { return part.volume == layer; });
            });
        if (!named) work.unwanted.insert(layer);
    }
    order.disks.push_back(std::move(work));
    const ObjectId subject{ObjectKind::disk, disk};
    co_return co_await start(engine, "flatten-disk", subject, std::move(order), options, Changes());
}

bool changes_one_of(const JobRecord& job, const std::vector<Uuid>& volumes) {
    const std::set<Uuid> changed = changed_by(Order::parse(job.plan));
    return std::any_of(volumes.begin(), volumes.end(),
                       [&](const Uuid& volume) { return changed.contains(volume); });
}

async::Task<> recover_remove_volumes(Engine& engine, JobPtr job) {
    Order order = Order::parse(job->record().plan);
    RemoveVolumes operation(engine, std::move(job), std::move(order));
    co_await operation.run();
}

std::vector<ObjectId> locks_of_remove_volumes(const JobRecord& job) {
    const JsonReader plan(job.plan, "plan of job " + job.id.str(), ErrorCode::internal);
    return parse_locks(plan);
}

}  // namespace volchain::storage
