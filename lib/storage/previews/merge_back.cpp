// SPDX-License-Identifier: MIT
#include "storage/previews/merge_back.h"

#include "storage/checkpoints/drop_bitmap.h"
#include "storage/images/doomed_files.h"
#include "storage/jobs/presence.h"
#include "storage/merges/merge.h"

namespace volchain::storage {
namespace {

MergeStep step_of(const PlannedOverlay& overlay) {
    MergeStep step;
    step.kind = MergeKind::commit;
    step.disk = overlay.disk;
    step.upper = overlay.volume;
    step.lower = overlay.parent;
    step.removed = {overlay.volume};
    step.released = {overlay.volume};
    return step;
}

/// The overlay's data is in the parent, and QEMU on it; then the records say so.
async::Task<> take_out_of_chain(Engine& engine, JobPtr job, PlannedOverlay overlay) {
    Catalog& catalog = engine.catalog();
    Merge merge(engine, job, step_of(overlay));
    co_await merge.run(0, 0);
    check_nothing_stands_on(engine, overlay.volume, {});
    DiskRecord disk = catalog.disk(overlay.disk);
    disk.active = overlay.parent;
    VolumeRecord parent = catalog.volume(overlay.parent);
    parent.mark = VolumeMark::none;
    Changes changes;
    changes.put(ManifestStale{disk.vm, true});
    changes.put(std::move(disk)).put(std::move(parent)).remove(ObjectKind::volume, overlay.volume);
    co_await catalog.commit(std::move(changes), Durability::power);
}

async::Task<> merge_one(Engine& engine, JobPtr job, PlannedOverlay overlay) {
    // Without the record, this was done before a crash.
    const bool recorded = engine.catalog().has({ObjectKind::volume, overlay.volume});
    if (recorded) co_await take_out_of_chain(engine, job, overlay);
    DoomedFiles doomed;
    doomed.add(engine.catalog().pool(overlay.pool).path, overlay.file);
    co_await doomed.unlink_all(engine);
    co_await engine.inspect_volume(overlay.parent);
}

/// The merges have carried it on; nobody was told of it, though.
async::Task<> drop_checkpoint(Engine& engine, Uuid vm, const Overlays& overlays) {
    std::vector<Uuid> disks;
    for (const PlannedOverlay& overlay : overlays.kept()) disks.push_back(overlay.disk);
    const bool live = co_await runs_or_is_gone(engine, vm);
    (void)co_await drop_bitmap(engine, vm, live, disks, overlays.checkpoint());
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
    for (const PlannedOverlay& overlay : overlays.kept()) {
        std::exception_ptr failure;
        co_await async::keep_failure(merge_one(engine, job, overlay), failure);
        if (failure)
            reason =
                Error(reason.code(), "{}; {} keeps a layer without a name, as it could not be merged: {}",
                      reason.what(), engine.catalog().describe({ObjectKind::disk, overlay.disk}),
                      to_error(failure).what());
    }
    if (!overlays.checkpoint().empty()) {
        std::exception_ptr failure;
        co_await async::keep_failure(drop_checkpoint(engine, job->record().subject.id, overlays), failure);
        if (failure)
            reason = Error(reason.code(), "{}; its checkpoint is still there: {}", reason.what(),
                           to_error(failure).what());
    }
    engine.write_manifests();
    co_await job->fail(Changes(), std::move(reason));
}

}  // namespace volchain::storage
