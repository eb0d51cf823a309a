// SPDX-License-Identifier: MIT
#include "storage/exports/shown_volume.h"

#include <algorithm>

#include "storage/merges/remove_volumes.h"

namespace volchain::storage {
namespace {

bool is_one_of(const std::string& kind, std::initializer_list<std::string_view> kinds) {
    return std::find(kinds.begin(), kinds.end(), kind) != kinds.end();
}

/// Jobs hold disks, not volumes; most of them leave alone what an export shows.
bool leaves_alone(const JobRecord& job, const std::vector<Uuid>& chain) {
    if (is_one_of(job.kind, {"create-snapshot", "create-overlay", "attach-disk", "detach-disk", "resize-disk",
                             "start-backup"}))
        return true;
    const bool merges = is_one_of(
        job.kind, {"delete-snapshot", "merge-volume", "commit-volume", "delete-volume", "flatten-disk"});
    return merges && !changes_one_of(job, chain);
}

}  // namespace

Uuid volume_of_snapshot(const Catalog& catalog, const Uuid& id, const Uuid& disk) {
    const SnapshotRecord& snapshot = catalog.snapshot(id);
    const std::string what = catalog.describe({ObjectKind::snapshot, id});
    if (snapshot.status != SnapshotStatus::ok && snapshot.status != SnapshotStatus::partial)
        throw Error(ErrorCode::busy, "{} is {}", what, word(snapshot.status));
    for (const SnapshotDisk& part : snapshot.disks)
        if (part.disk == disk) return part.volume;
    throw Error(ErrorCode::invalid_argument, "argument 'disk': {} has nothing of {}", what,
                catalog.describe({ObjectKind::disk, disk}));
}

void check_immutable(const Catalog& catalog, const Uuid& volume) {
    const VolumeRecord& record = catalog.volume(volume);
    const std::string what = catalog.describe({ObjectKind::volume, volume});
    if (record.mark == VolumeMark::illegal)
        throw Error(ErrorCode::broken_chain,
                    "{} is illegal: a merge into it was not finished, and what it shows stands for nothing",
                    what);
    const DiskRecord& disk = catalog.disk(record.disk);
    if (disk.active == volume || disk.former == volume)
        throw Error(ErrorCode::in_use,
                    "{} is the {} volume of {}, which is written to: take a snapshot, and "
                    "export that",
                    what, disk.active == volume ? "active" : "former active",
                    catalog.describe({ObjectKind::disk, disk.id}));
}

void check_nobody_changes(const Engine& engine, const std::vector<Uuid>& chain) {
    const Catalog& catalog = engine.catalog();
    for (const Uuid& volume : chain) {
        const ObjectId disk{ObjectKind::disk, catalog.volume(volume).disk};
        const JobPtr job = engine.jobs().find(engine.locks().job_holding(disk));
        if (job && !leaves_alone(job->record(), chain))
            throw Error(ErrorCode::busy, "{} is busy: {}, job {}; wait for its end or cancel it",
                        catalog.describe(disk), job->record().kind, job->id().str());
    }
}

}  // namespace volchain::storage
