// SPDX-License-Identifier: MIT
#include "storage/merges/remove_volumes.h"

#include <algorithm>

#include "base/text.h"
#include "storage/jobs/held_volumes.h"
#include "storage/memory/resume_state.h"
#include "storage/merges/removal.h"
#include "storage/records/preview_state.h"

namespace volchain::storage {
namespace {

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
    co_await engine.refuse_incoming(vm);
}

void check_nothing_is_exported(const Catalog& catalog, const RemovalOrder& order) {
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

async::Task<Uuid> start(Engine& engine, std::string kind, ObjectId subject, RemovalOrder order,
                        MergeOptions options, Changes changes) {
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
    Operation operation = [&engine, shared = std::make_shared<RemovalOrder>(std::move(order))](JobPtr job) {
        return carry_out(engine, std::move(job), std::move(*shared));
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

DiskWork& work_on(RemovalOrder& order, const Uuid& disk) {
    const auto known = std::find_if(order.disks.begin(), order.disks.end(),
                                    [&](const DiskWork& work) { return work.disk == disk; });
    if (known != order.disks.end()) return *known;
    DiskWork work;
    work.disk = disk;
    return order.disks.emplace_back(std::move(work));
}

/// What a deletion that ended halfway could not remove may be on disks that the snapshot names no more.
void add_leftovers(const Catalog& catalog, const Uuid& vm, RemovalOrder& order) {
    if (vm.nil()) return;
    for (const Uuid& disk : catalog.disks_of_vm(vm))
        for (const Uuid& volume : catalog.volumes_of_disk(disk))
            if (catalog.volume(volume).mark == VolumeMark::leftover) (void)work_on(order, disk);
}

/// Of a snapshot that is to be deleted: the disks and volumes.
void add_snapshot(const Catalog& catalog, const Uuid& id, RemovalOrder& order, Changes& changes) {
    SnapshotRecord snapshot = catalog.snapshot(id);
    if (snapshot.status == SnapshotStatus::creating || snapshot.status == SnapshotStatus::deleting)
        throw Error(ErrorCode::busy, "{} is being {}", catalog.describe({ObjectKind::snapshot, id}),
                    snapshot.status == SnapshotStatus::creating ? "created" : "deleted");
    check_memory_not_due(catalog, id);
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
    RemovalOrder order;
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
    RemovalOrder order;
    order.direction = direction;
    order.disks.push_back({catalog.volume(volume).disk, {volume}, {}});
    (void)next_merge_step(catalog, order.disks.front().disk, {volume}, direction,
                          {});  // throws what stands in the way
    const ObjectId subject{ObjectKind::volume, volume};
    co_return co_await start(engine, "merge-volume", subject, std::move(order), options, Changes());
}

async::Task<Uuid> commit_volume(Engine& engine, Uuid volume, Uuid base, MergeOptions options) {
    RemovalOrder order;
    order.disks.push_back(
        {engine.catalog().volume(volume).disk, {}, commit_step(engine.catalog(), volume, base)});
    order.result = base;
    const ObjectId subject{ObjectKind::volume, volume};
    co_return co_await start(engine, "commit-volume", subject, std::move(order), options, Changes());
}

async::Task<Uuid> delete_volume(Engine& engine, Uuid volume, MergeOptions options) {
    const Catalog& catalog = engine.catalog();
    check_removable(engine, volume, {});
    RemovalOrder order;
    order.only_drop = true;
    order.disks.push_back({catalog.volume(volume).disk, {volume}, {}});
    const ObjectId subject{ObjectKind::volume, volume};
    co_return co_await start(engine, "delete-volume", subject, std::move(order), options, Changes());
}

async::Task<Uuid> flatten_disk(Engine& engine, Uuid disk, MergeOptions options) {
    const Catalog& catalog = engine.catalog();
    const Uuid active = catalog.disk(disk).active;
    RemovalOrder order;
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
    const std::set<Uuid> changed = changed_by(RemovalOrder::parse(job.plan));
    return std::any_of(volumes.begin(), volumes.end(),
                       [&](const Uuid& volume) { return changed.contains(volume); });
}

async::Task<> recover_remove_volumes(Engine& engine, JobPtr job) {
    RemovalOrder order = RemovalOrder::parse(job->record().plan);
    co_await carry_out(engine, std::move(job), std::move(order));
}

std::vector<ObjectId> locks_of_remove_volumes(const JobRecord& job) {
    return RemovalOrder::parse(job.plan).locks;
}

}  // namespace volchain::storage
