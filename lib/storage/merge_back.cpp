// SPDX-License-Identifier: MIT
#include "storage/merge_back.h"

#include "base/text.h"
#include "qmp/job.h"
#include "storage/doomed_files.h"

namespace volchain::storage {
namespace {

/// A commit of what a guest wrote in the moments since the switch takes no longer than this.
constexpr auto merge_limit = std::chrono::minutes(5);

std::string job_id(const PlannedOverlay& overlay) {
    return "vc-merge-" + overlay.volume.str();
}

Json commit_arguments(const std::string& top, const std::string& base) {
    Json arguments;
    arguments["device"] = top;
    arguments["top-node"] = top;
    arguments["base-node"] = base;
    arguments["on-error"] = "report";
    return arguments;
}

/// Breaks off what an earlier life of the daemon began.
async::Task<> end_old_job(std::shared_ptr<qmp::Session> session, std::string id, async::Deadline deadline) {
    qmp::Job old(session, std::move(id));
    co_await old.attach(deadline);
    if (old.status() == qmp::JobStatus::null) co_return;
    if (!old.ended()) co_await old.cancel(deadline);
    std::exception_ptr ignored;
    co_await async::keep_failure(old.finish(deadline), ignored);
}

/// Active commit of the disk's active layer into the one below; the layers are updated. Returns with the
/// overlay out of the disk's chain, judged by the graph.
async::Task<> commit_active(Engine& engine, Uuid vm, PlannedOverlay overlay, std::string path) {
    const async::Deadline deadline = async::after(merge_limit);
    const auto session = engine.vm(vm).session();
    co_await end_old_job(session, job_id(overlay), deadline);
    co_await engine.vm(vm).read_disks();
    if (const LiveDisk* disk = engine.vm(vm).find_disk(path)) {
        if (disk->layers.size() < 2)
            throw Error(ErrorCode::broken_chain, "nothing is below {} in QEMU", quote(path));
        Json arguments = commit_arguments(disk->layers[0].node, disk->layers[1].node);
        qmp::Job job(session, job_id(overlay));
        co_await job.start("block-commit", std::move(arguments), deadline);
        const bool ready = co_await job.until_ready(deadline);
        if (ready) co_await job.complete(deadline);
        co_await job.finish(deadline);
        co_await engine.vm(vm).read_disks();
    }
    if (engine.vm(vm).find_disk(path) != nullptr)
        throw Error(ErrorCode::qemu_failed, "QEMU still has {} as active layer after the commit",
                    quote(path));
    // It was added by name, so it stays after the commit until it is deleted by name.
    Json node;
    node["node-name"] = overlay.node();
    (void)co_await session->execute("blockdev-del", std::move(node), deadline);
}

async::Task<> take_out_of_chain(Engine& engine, Uuid vm, PlannedOverlay overlay) {
    Catalog& catalog = engine.catalog();
    const std::string path = catalog.path(catalog.volume(overlay.volume));
    co_await commit_active(engine, vm, overlay, path);
    if (!catalog.children(overlay.volume).empty())
        throw Error(ErrorCode::in_use, "{} has become the backing file of another volume", quote(path));
    DiskRecord disk = catalog.disk(overlay.disk);
    disk.active = overlay.parent;
    Changes changes;
    changes.put(std::move(disk)).remove(ObjectKind::volume, overlay.volume).put(ManifestStale{vm, true});
    co_await catalog.commit(std::move(changes), Durability::power);
}

async::Task<> merge_one(Engine& engine, Uuid vm, PlannedOverlay overlay) {
    // Without the record, this was done before a crash.
    const bool recorded = engine.catalog().has({ObjectKind::volume, overlay.volume});
    if (recorded) co_await take_out_of_chain(engine, vm, overlay);
    DoomedFiles doomed;
    doomed.add(engine.catalog().pool(overlay.pool).path, overlay.file);
    co_await doomed.unlink_all(engine);
    co_await engine.inspect_volume(overlay.parent);
}

}  // namespace

async::Task<> merge_back(Engine& engine, JobPtr job, Overlays& overlays, Uuid snapshot, Error reason) {
    co_await job->undo_step("withdraw");
    Changes changes = overlays.changes();
    changes.remove(ObjectKind::snapshot, snapshot).put(ManifestStale{job->record().subject.id, true});
    co_await engine.catalog().commit(std::move(changes), Durability::power);
    overlays.make_known();
    co_await finish_merge_back(engine, std::move(job), overlays, std::move(reason));
}

async::Task<> finish_merge_back(Engine& engine, JobPtr job, Overlays& overlays, Error reason) {
    co_await job->undo_step("merge");
    const Uuid vm = job->record().subject.id;
    co_await engine.vm(vm).look_now(async::after(engine.settings().greeting_timeout * 2));
    for (const PlannedOverlay& overlay : overlays.kept()) {
        std::exception_ptr failure;
        co_await async::keep_failure(merge_one(engine, vm, overlay), failure);
        if (failure)
            reason =
                Error(reason.code(), "{}; {} keeps a layer without a name, as it could not be merged: {}",
                      reason.what(), engine.catalog().describe({ObjectKind::disk, overlay.disk}),
                      to_error(failure).what());
    }
    engine.write_manifests();
    co_await job->fail(Changes{}, std::move(reason));
}

}  // namespace volchain::storage
