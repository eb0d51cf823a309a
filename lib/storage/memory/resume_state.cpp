// SPDX-License-Identifier: MIT
#include "storage/memory/resume_state.h"

#include <algorithm>

#include "base/file.h"
#include "base/text.h"
#include "qcow2/allocation.h"
#include "storage/memory/memory_file.h"

namespace volchain::storage {
namespace {

/// A layer above what the snapshot holds.
struct LayerAbove {
    std::string pool;
    std::string file;
    std::uint64_t size = 0;  ///< of the disk, as it is below
};

/// What is wrong with it; empty where it shows just what is below it. Blocking.
std::string what_it_changes(const LayerAbove& layer) {
    const std::string path = quote(layer.pool + "/" + layer.file);
    const UniqueFd pool = open_directory(layer.pool);
    const UniqueFd image = open_beneath(pool.get(), layer.file, O_RDONLY);
    const qcow2::FileSource source(image.get());
    const qcow2::Header header = qcow2::read_header(source);
    if (header.virtual_size != layer.size) return fmt::format("{} has another size", path);
    if (qcow2::has_data(source, header)) return fmt::format("{} has been written to", path);
    return {};
}

const SnapshotDisk* part_with(const SnapshotRecord& snapshot, const Uuid& disk) {
    const auto found = std::find_if(snapshot.disks.begin(), snapshot.disks.end(),
                                    [&](const SnapshotDisk& part) { return part.disk == disk; });
    return found == snapshot.disks.end() ? nullptr : &*found;
}

/// The layers of a disk above what it held at the snapshot; none where it does not stand on that.
std::optional<std::vector<LayerAbove>> layers_above(const Catalog& catalog, const Uuid& disk,
                                                    const Uuid& content) {
    std::vector<LayerAbove> layers;
    for (const Uuid& id : catalog.chain(catalog.disk(disk).active)) {
        if (id == content) return layers;
        const VolumeRecord& volume = catalog.volume(id);
        if (volume.format != VolumeFormat::qcow2) return std::nullopt;
        layers.push_back({catalog.pool(volume.pool).path, volume.file, catalog.facts(content).size});
    }
    return std::nullopt;
}

async::Task<std::string> look_at_disk_layers(Engine& engine, Uuid disk, Uuid content) {
    const Catalog& catalog = engine.catalog();
    const auto layers = layers_above(catalog, disk, content);
    if (!layers)
        co_return fmt::format("{} does not stand on what it held then",
                              catalog.describe({ObjectKind::disk, disk}));
    auto work = [all = *layers] {
        for (const LayerAbove& layer : all)
            if (std::string changed = what_it_changes(layer); !changed.empty()) return changed;
        return std::string();
    };
    co_return co_await engine.files().run(std::move(work));
}

async::Task<std::string> look_at_memory(Engine& engine, SnapshotFile memory) {
    auto work = [pool = engine.catalog().pool(memory.pool).path, file = memory.file] {
        (void)open_memory(pool, file);
    };
    std::exception_ptr failure;
    co_await async::keep_failure(engine.files().run(std::move(work)), failure);
    if (!failure) co_return std::string();
    const Error error = to_error(failure);
    if (error.code() == ErrorCode::cancelled) throw error;
    co_return std::string(error.what());
}

/// As the disks are now.
std::string misfit_of_disks(const Catalog& catalog, const SnapshotRecord& snapshot) {
    std::map<Uuid, Uuid> disks;
    for (const Uuid& disk : catalog.disks_of_vm(snapshot.vm)) disks.emplace(disk, snapshot.id);
    return memory_misfit(catalog, snapshot, disks);
}

}  // namespace

const SnapshotRecord* due_memory(const Catalog& catalog, const Uuid& vm) {
    const auto found = catalog.snapshots().find(catalog.vm(vm).resumes_from);
    if (found == catalog.snapshots().end() || memory_of(found->second) == nullptr) return nullptr;
    return &found->second;
}

std::string memory_misfit(const Catalog& catalog, const SnapshotRecord& snapshot,
                          const std::map<Uuid, Uuid>& disks) {
    const auto name = [&](const Uuid& disk) {
        return catalog.has({ObjectKind::disk, disk}) ? catalog.describe({ObjectKind::disk, disk})
                                                     : "disk " + disk.str();
    };
    for (const SnapshotDisk& part : snapshot.disks) {
        const auto shown = disks.find(part.disk);
        if (shown == disks.end())
            return fmt::format("the guest had {} then, which does not come back", name(part.disk));
        if (shown->second != snapshot.id)
            return fmt::format("{} is to show another snapshot", name(part.disk));
    }
    for (const Uuid& disk : catalog.disks_of_vm(snapshot.vm))
        if (part_with(snapshot, disk) == nullptr)
            return fmt::format("the guest did not have {} then", name(disk));
    if (!snapshot.excluded.empty()) return "a disk was left out of the snapshot, or deleted since";
    return {};
}

async::Task<std::string> why_memory_is_void(Engine& engine, Uuid vm) {
    const SnapshotRecord* const due = due_memory(engine.catalog(), vm);
    if (due == nullptr) co_return "no memory is due";
    const SnapshotRecord snapshot = *due;
    if (std::string misfit = misfit_of_disks(engine.catalog(), snapshot); !misfit.empty()) co_return misfit;
    for (const SnapshotDisk& part : snapshot.disks) {
        const std::string changed = co_await look_at_disk_layers(engine, part.disk, part.volume);
        if (!changed.empty()) co_return changed;
    }
    co_return co_await look_at_memory(engine, *memory_of(snapshot));
}

void check_memory_not_due(const Catalog& catalog, const Uuid& snapshot) {
    for (const auto& [id, vm] : catalog.vms()) {
        const SnapshotRecord* const due = due_memory(catalog, id);
        if (due == nullptr || due->id != snapshot) continue;
        throw Error(ErrorCode::in_use,
                    "{} goes on from the memory of {} when it is started: start it first, or give that up "
                    "('volchainctl vm update --discard-memory')",
                    catalog.describe({ObjectKind::vm, id}),
                    catalog.describe({ObjectKind::snapshot, snapshot}));
    }
}

}  // namespace volchain::storage
