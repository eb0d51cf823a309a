// SPDX-License-Identifier: MIT
#include "storage/snapshots/create_snapshot.h"

#include "base/text.h"
#include "storage/checkpoints/checkpoints.h"
#include "storage/memory/memory_writer.h"
#include "storage/merges/merge_room.h"
#include "storage/records/preview_state.h"
#include "storage/snapshots/snapshot_work.h"
#include "storage/snapshots/snapshots.h"

namespace volchain::storage {
namespace {

std::vector<ObjectId> vm_and_disks(const Uuid& vm, const std::vector<Uuid>& disks) {
    std::vector<ObjectId> objects;
    if (vm) objects.push_back({ObjectKind::vm, vm});
    for (const Uuid& disk : disks) objects.push_back({ObjectKind::disk, disk});
    return objects;
}

SnapshotFiles files_beside(Engine& engine, const SnapshotRequest& request, const Uuid& snapshot,
                           const Uuid& disk) {
    if (request.vm.nil()) return SnapshotFiles(engine);
    const Catalog& catalog = engine.catalog();
    return {engine, catalog.vm(request.vm), snapshot, catalog.disk(disk).active, request.memory};
}

/// Before the first byte is written.
async::Task<> check_room_for_memory(Engine& engine, std::uint64_t needed, const SnapshotFiles& files) {
    const SnapshotFile memory = *files.memory();
    const std::string pool = files.pool_path(memory);
    auto look = [path = pool + "/" + memory.file] { return room_beside(path); };
    const std::uint64_t room = co_await engine.files().run(std::move(look));
    if (room < needed)
        throw Error(
            ErrorCode::no_space,
            "the memory takes up to {} bytes, and {} are free in the file system of {}; nothing was done",
            needed, room, quote(pool));
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
    if (!request.checkpoint.empty()) co_await look_at_checkpoints(engine, request.vm);
    // Somebody else may have been faster. From here on a VM that is down is not waited for any more.
    check_no_preview(catalog, request.vm);
    disks = chosen_disks(catalog, request);
    check_memory_request(catalog, request, disks, live);
    std::uint64_t memory_bytes = 0;
    if (request.memory) memory_bytes = co_await check_memory(engine, request.vm);

    Overlays overlays(engine, live ? request.vm : Uuid{}, request.on_disk_failure);
    for (const Uuid& disk : disks) {
        overlays.add(disk);
        if (const auto reason = unfit(engine, request.vm, disk, live)) overlays.drop(disk, *reason);
    }
    SnapshotRecord snapshot = new_snapshot(engine, request);
    snapshot.excluded = strangers(engine, request, live);
    SnapshotFiles files = files_beside(engine, request, snapshot.id, disks.front());
    if (!request.checkpoint.empty()) {
        const CheckpointName checkpoint =
            new_checkpoint(engine, request.vm, request.checkpoint, snapshot.created);
        overlays.begin_checkpoint(checkpoint.bitmap());
    }
    if (request.memory) co_await check_room_for_memory(engine, memory_bytes, files);
    const QuiesceMode quiesce = request.memory ? QuiesceMode::off : request.quiesce;
    auto parts = std::make_shared<SnapshotParts>(std::move(overlays), std::move(files), snapshot.id, quiesce);

    ObjectId subject{ObjectKind::vm, request.vm};
    if (request.vm.nil()) subject = {ObjectKind::disk, disks.front()};
    JobRequest job("create-snapshot", subject, request.owner_uid);
    job.locks = vm_and_disks(request.vm, disks);
    job.plan = parts->plan();
    job.changes.put(snapshot);
    const auto timeout = request.freeze_timeout.value_or(engine.settings().freeze_timeout);
    Operation operation = [&engine, parts, timeout](JobPtr started) {
        return take_snapshot(engine, std::move(started), std::move(*parts), timeout);
    };
    co_return co_await engine.jobs().start(std::move(job), std::move(operation));
}

async::Task<> recover_create_snapshot(Engine& engine, JobPtr job) {
    const JsonReader plan(job->record().plan, "plan of job " + job->id().str(), ErrorCode::internal);
    SnapshotParts parts(engine, plan);
    co_await settle_snapshot(engine, std::move(job), std::move(parts));
}

std::vector<ObjectId> locks_of_create_snapshot(const JobRecord& job) {
    const JsonReader plan(job.plan, "plan of job " + job.id.str(), ErrorCode::internal);
    std::vector<Uuid> disks;
    for (const JsonReader& overlay : plan.at("overlays").elements())
        disks.push_back(Uuid::parse(overlay.at("disk").string()).value_or(Uuid{}));
    return vm_and_disks(job.subject.kind == ObjectKind::vm ? job.subject.id : Uuid{}, disks);
}

}  // namespace volchain::storage
