// SPDX-License-Identifier: MIT
#include "storage/previews/left_branch.h"

#include <algorithm>
#include <functional>
#include <iterator>

#include "base/text.h"
#include "storage/images/overlay_file.h"
#include "storage/jobs/held_volumes.h"

namespace volchain::storage {
namespace {

/// The snapshot and all that it descends from.
void add_with_ancestors(const Catalog& catalog, Uuid snapshot, std::set<Uuid>& all) {
    while (catalog.has({ObjectKind::snapshot, snapshot}) && all.insert(snapshot).second)
        snapshot = catalog.snapshot(snapshot).parent;
}

/// Whose volumes are in the chains of the disks that stay where they are.
void add_stood_on(const Catalog& catalog, const Uuid& vm, const Leaves& leaves, std::set<Uuid>& all) {
    std::set<Uuid> layers;
    for (const Uuid& disk : catalog.disks_of_vm(vm)) {
        if (leaves.contains(disk)) continue;
        const std::vector<Uuid> chain = catalog.chain(catalog.disk(disk).active);
        layers.insert(chain.begin(), chain.end());
    }
    for (const Uuid& id : catalog.snapshots_of_vm(vm))
        for (const SnapshotDisk& part : catalog.snapshot(id).disks)
            if (layers.contains(part.volume)) add_with_ancestors(catalog, id, all);
}

bool has_other_child(const Catalog& catalog, const Uuid& snapshot, const std::set<Uuid>& but_these) {
    const std::vector<Uuid> all = catalog.snapshots_of_vm(catalog.snapshot(snapshot).vm);
    return std::any_of(all.begin(), all.end(), [&](const Uuid& other) {
        return catalog.snapshot(other).parent == snapshot && !but_these.contains(other);
    });
}

/// Whether a disk or a snapshot needs the volume, the leaves and the snapshots that go left out of account.
bool needed(const Catalog& catalog, const Uuid& volume, const Leaves& leaves,
            const std::set<Uuid>& snapshots) {
    for (const auto& [id, disk] : catalog.disks()) {
        const auto leaf = leaves.find(id);
        const bool left = leaf != leaves.end() && leaf->second == volume;
        if ((disk.active == volume || disk.former == volume) && !left) return true;
    }
    for (const auto& [id, snapshot] : catalog.snapshots())
        if (!snapshots.contains(id))
            for (const SnapshotDisk& part : snapshot.disks)
                if (part.volume == volume) return true;
    return false;
}

/// What may go at all: of the disks' own volumes, those below the leaves and those of the snapshots that go.
std::set<Uuid> candidates(const Catalog& catalog, const Leaves& leaves, const std::set<Uuid>& snapshots) {
    std::set<Uuid> all;
    const auto add = [&](const Uuid& volume, const Uuid& disk) {
        if (catalog.has({ObjectKind::volume, volume}) && catalog.volume(volume).disk == disk &&
            !needed(catalog, volume, leaves, snapshots))
            all.insert(volume);
    };
    for (const auto& [disk, leaf] : leaves)
        for (const Uuid& volume : catalog.chain(leaf)) add(volume, disk);
    for (const Uuid& snapshot : snapshots)
        for (const SnapshotDisk& part : catalog.snapshot(snapshot).disks) add(part.volume, part.disk);
    return all;
}

/// So that none is without its backing file at any time, also where they go one by one.
std::vector<Uuid> top_first(const Catalog& catalog, std::set<Uuid> volumes) {
    const auto covered = [&](const Uuid& volume) {
        const std::vector<Uuid> children = catalog.children(volume);
        return std::any_of(children.begin(), children.end(),
                           [&](const Uuid& child) { return volumes.contains(child); });
    };
    std::vector<Uuid> ordered;
    while (!volumes.empty()) {
        std::vector<Uuid> tops;
        std::copy_if(volumes.begin(), volumes.end(), std::back_inserter(tops), std::not_fn(covered));
        // A circle of backing files has no top.
        if (tops.empty()) tops.assign(volumes.begin(), volumes.end());
        for (const Uuid& top : tops) volumes.erase(top);
        ordered.insert(ordered.end(), tops.begin(), tops.end());
    }
    return ordered;
}

}  // namespace

std::set<Uuid> abandoned_snapshots(const Catalog& catalog, const Uuid& vm, const Leaves& leaves,
                                   const std::set<Uuid>& shown) {
    std::set<Uuid> stay;
    for (const Uuid& snapshot : shown) add_with_ancestors(catalog, snapshot, stay);
    add_stood_on(catalog, vm, leaves, stay);
    std::set<Uuid> go;
    // Where one stays, those above it have a child that does.
    for (Uuid next = catalog.vm(vm).current_snapshot; catalog.has({ObjectKind::snapshot, next});
         next = catalog.snapshot(next).parent) {
        if (stay.contains(next) || has_other_child(catalog, next, go)) break;
        if (!go.insert(next).second) break;
    }
    return go;
}

std::vector<Uuid> abandoned_volumes(const Catalog& catalog, const Leaves& leaves,
                                    const std::set<Uuid>& snapshots) {
    std::set<Uuid> go = candidates(catalog, leaves, snapshots);
    // One that stays holds all below it.
    const auto stays = [&](const Uuid& volume) {
        const std::vector<Uuid> children = catalog.children(volume);
        return std::any_of(children.begin(), children.end(),
                           [&](const Uuid& child) { return !go.contains(child); });
    };
    for (bool changed = true; changed;) changed = std::erase_if(go, stays) > 0;
    return top_first(catalog, std::move(go));
}

// --- what becomes of it
// ----------------------------------------------------------------------------------------------

/// What is decided here must not rest on headers that have changed since.
async::Task<> LeftBranch::look_again() {
    std::vector<Uuid> volumes;
    for (const Uuid& disk : engine_.catalog().disks_of_vm(vm_)) {
        const std::vector<Uuid> of_disk = engine_.catalog().volumes_of_disk(disk);
        volumes.insert(volumes.end(), of_disk.begin(), of_disk.end());
    }
    co_await engine_.inspect_volumes(std::move(volumes));
}

async::Task<> LeftBranch::give_up(std::set<Uuid> shown, bool has_leaves_locked) {
    co_await look_again();
    snapshots_ = abandoned_snapshots(engine_.catalog(), vm_, leaves_, shown);
    volumes_ = abandoned_volumes(engine_.catalog(), leaves_, snapshots_);
    co_await lock_doomed(has_leaves_locked);
}

async::Task<> LeftBranch::keep(std::string name, VmRecord before, std::vector<SnapshotFile> nvram,
                               bool has_leaves_locked) {
    co_await look_again();
    const bool state_of_its_own = co_await unnamed_state();
    if (!state_of_its_own) {
        drop(std::move(nvram));
        volumes_ = abandoned_volumes(engine_.catalog(), leaves_, snapshots_);
        co_return co_await lock_doomed(has_leaves_locked);
    }
    std::vector<std::string> taken;
    for (const Uuid& id : engine_.catalog().snapshots_of_vm(vm_))
        taken.push_back(engine_.catalog().snapshot(id).name);
    SnapshotRecord& made = made_.emplace();
    made.id = Uuid::make();
    made.vm = vm_;
    made.name = free_name(name, taken);
    made.parent = before.current_snapshot;
    made.created = now();
    made.vm_state = VmState::shutoff;
    made.consistency = Consistency::offline;
    made.status = SnapshotStatus::ok;
    made.config = std::move(before.config);
    made.config_type = std::move(before.config_type);
    made.files = std::move(nvram);
    for (const auto& [disk, leaf] : leaves_) {
        made.disks.push_back({disk, leaf});
        // From now on nobody may write to it: nobody does.
        if (!has_leaves_locked) locks_.push_back(co_await lock_for_reading(engine_, leaf));
    }
}

async::Task<> LeftBranch::drop_leaves() {
    co_await look_again();
    volumes_ = abandoned_volumes(engine_.catalog(), leaves_, snapshots_);
    for (const auto& [disk, leaf] : leaves_) {
        if (std::find(volumes_.begin(), volumes_.end(), leaf) != volumes_.end()) continue;
        std::vector<std::string> above;
        for (const Uuid& child : engine_.catalog().children(leaf))
            above.push_back(engine_.catalog().describe({ObjectKind::volume, child}));
        throw Error(ErrorCode::in_use, "{} cannot go: it is the backing file of {}",
                    engine_.catalog().describe({ObjectKind::volume, leaf}), joined(above, ", "));
    }
    co_await lock_doomed(false);
}

/// Proves that no process has them open, before anything is changed.
async::Task<> LeftBranch::lock_doomed(bool has_leaves_locked) {
    engine_.holds().check_free({volumes_.begin(), volumes_.end()});
    for (const Uuid& snapshot : snapshots_) check_snapshot_not_exported(engine_.catalog(), snapshot);
    for (const Uuid& volume : volumes_) check_not_exported(engine_.catalog(), volume);
    std::vector<Uuid> volumes = volumes_;
    if (has_leaves_locked)
        for (const auto& [disk, leaf] : leaves_) std::erase(volumes, leaf);
    for (const Uuid& volume : volumes) {
        auto lock = co_await lock_if_there(engine_, volume);
        if (lock) locks_.push_back(*std::move(lock));
    }
}

/// Whether a leaf is more than an empty overlay over a volume that a snapshot names.
async::Task<bool> LeftBranch::unnamed_state() {
    std::vector<Uuid> leaves;
    for (const auto& [disk, leaf] : leaves_) leaves.push_back(leaf);
    for (const Uuid& leaf : leaves) {
        const bool found = co_await holds_unnamed_state(leaf);
        if (found) co_return true;
    }
    co_return false;
}

async::Task<bool> LeftBranch::holds_unnamed_state(Uuid leaf) {
    const Catalog& catalog = engine_.catalog();
    const Uuid below = catalog.backing(leaf);
    if (below.nil() || catalog.facts(below).size != catalog.facts(leaf).size) co_return true;
    bool named = false;
    for (const Uuid& id : catalog.snapshots_of_vm(vm_)) {
        const SnapshotRecord& snapshot = catalog.snapshot(id);
        const bool whole =
            snapshot.status == SnapshotStatus::ok || snapshot.status == SnapshotStatus::partial;
        for (const SnapshotDisk& part : snapshot.disks) named = named || (whole && part.volume == below);
    }
    if (!named) co_return true;
    const VolumeRecord& top = catalog.volume(leaf);
    const VolumeRecord& parent = catalog.volume(below);
    const OverlayFile overlay(catalog.pool(top.pool).path, parent.file, parent.format, top.file);
    auto work = [overlay] { return overlay_is_pristine(overlay); };
    const bool pristine = co_await engine_.files().run(std::move(work));
    co_return !pristine;
}

// --- what follows
// ----------------------------------------------------------------------------------------------------

/// Volumes of snapshots that go, and that cannot go themselves: merges do away with them as soon as they can. That
/// is never where another disk stands on them.
std::vector<VolumeRecord> LeftBranch::leftovers() const {
    const Catalog& catalog = engine_.catalog();
    std::vector<VolumeRecord> all;
    for (const Uuid& snapshot : snapshots_) {
        for (const SnapshotDisk& part : catalog.snapshot(snapshot).disks) {
            const bool goes = std::find(volumes_.begin(), volumes_.end(), part.volume) != volumes_.end();
            if (goes || !catalog.has({ObjectKind::volume, part.volume}) ||
                needed(catalog, part.volume, leaves_, snapshots_))
                continue;
            VolumeRecord volume = catalog.volume(part.volume);
            const std::vector<Uuid> children = catalog.children(volume.id);
            const bool own = std::all_of(children.begin(), children.end(), [&](const Uuid& child) {
                return catalog.volume(child).disk == volume.disk;
            });
            if (volume.mark != VolumeMark::none || !own) continue;
            volume.mark = VolumeMark::leftover;
            all.push_back(std::move(volume));
        }
    }
    return all;
}

void LeftBranch::put(Changes& changes) const {
    if (made_) changes.put(*made_);
    for (VolumeRecord& volume : leftovers()) changes.put(std::move(volume));
    for (const Uuid& snapshot : snapshots_) changes.remove(ObjectKind::snapshot, snapshot);
    for (const Uuid& volume : volumes_) changes.remove(ObjectKind::volume, volume);
}

DoomedFiles LeftBranch::files() const {
    DoomedFiles files;
    for (const Uuid& id : volumes_) {
        const VolumeRecord& volume = engine_.catalog().volume(id);
        files.add(engine_.catalog().pool(volume.pool).path, volume.file);
    }
    std::vector<SnapshotFile> others = dropped_;
    for (const Uuid& snapshot : snapshots_) {
        const std::vector<SnapshotFile>& kept = engine_.catalog().snapshot(snapshot).files;
        others.insert(others.end(), kept.begin(), kept.end());
    }
    for (const SnapshotFile& file : others) files.add(engine_.catalog().pool(file.pool).path, file.file);
    return files;
}

Json LeftBranch::result() const {
    Json result = Json::object();
    std::vector<SnapshotRecord> removed;
    for (const Uuid& snapshot : snapshots_) removed.push_back(engine_.catalog().snapshot(snapshot));
    std::sort(removed.begin(), removed.end(),
              [](const SnapshotRecord& a, const SnapshotRecord& b) { return a.created < b.created; });
    for (const SnapshotRecord& snapshot : removed) result["removed"].push_back(snapshot.name);
    if (made_) result["snapshot"] = object_json({ObjectKind::snapshot, made_->id});
    return result;
}

async::Task<> finish_leaving(Engine& engine, JobPtr job, DoomedFiles files, Json result) {
    co_await job->undo_step("unlink");
    std::exception_ptr failure;
    co_await async::keep_failure(files.unlink_all(engine), failure);
    if (failure) {
        const Error error = to_error(failure);
        if (error.code() == ErrorCode::cancelled) throw error;  // shutting down: recovery goes on with it
        job->log().warning("a file that nobody needs any more could not be removed: {}", error.what());
        result["not-removed"] = Json::array({error.what()});
    }
    engine.write_manifests();
    co_await job->succeed(Changes{}, std::move(result));
}

}  // namespace volchain::storage
