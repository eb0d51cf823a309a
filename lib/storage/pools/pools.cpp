// SPDX-License-Identifier: MIT
#include "storage/pools/pools.h"

#include <filesystem>
#include <set>

#include "base/file.h"
#include "base/text.h"
#include "qcow2/identify.h"
#include "storage/jobs/held_volumes.h"

namespace volchain::storage {
namespace {

namespace fs = std::filesystem;

/// Files in the directory, not below, that carry the marks of an image format; at most this many are named.
constexpr std::size_t max_unknown = 1000;

std::vector<std::string> image_files(const std::string& pool) {
    std::vector<std::string> found;
    const UniqueFd directory = open_directory(pool);
    for (const fs::directory_entry& entry : fs::directory_iterator(pool)) {
        std::error_code ignored;
        const std::string name = entry.path().filename().string();
        if (!fs::is_regular_file(entry.symlink_status(ignored)) || name.starts_with('.') || !valid_utf8(name))
            continue;
        try {
            const UniqueFd fd = open_beneath(directory.get(), name, O_RDONLY);
            if (qcow2::identify(qcow2::FileSource(fd.get()))) found.push_back(name);
        } catch (const Error&) {
            // Gone meanwhile, or not ours to read: not an image that could be imported.
        }
        if (found.size() == max_unknown) break;
    }
    return found;
}

async::Task<> refresh(Engine& engine, JobPtr job) {
    const Catalog& catalog = engine.catalog();
    const Uuid pool = job->record().subject.id;
    co_await job->step("look");
    co_await engine.inspect_pool(pool, true);
    std::vector<Uuid> volumes;
    std::set<std::string> known;
    for (const auto& [id, volume] : catalog.volumes()) {
        if (volume.pool != pool) continue;
        volumes.push_back(id);
        known.insert(volume.file);
    }
    for (const RestoredDisk& restored : catalog.restored_disks())
        if (restored.pool == pool) known.insert(restored.file);
    co_await engine.inspect_volumes(volumes);

    std::uint64_t missing = 0;
    std::uint64_t corrupt = 0;
    for (const Uuid& volume : volumes) {
        missing += catalog.facts(volume).state == VolumeState::missing ? 1U : 0U;
        corrupt += catalog.facts(volume).state == VolumeState::corrupt ? 1U : 0U;
    }
    auto look = [path = catalog.pool(pool).path] { return image_files(path); };
    Json unknown = Json::array();
    if (engine.pool_status(pool).state != PoolState::missing) {
        const std::vector<std::string> files = co_await engine.files().run(std::move(look));
        for (const std::string& file : files)
            if (!known.contains(file)) unknown.push_back(file);
    }
    Json result;
    result["volumes"] = volumes.size();
    result["missing"] = missing;
    result["corrupt"] = corrupt;
    result["unknown"] = std::move(unknown);
    co_await job->succeed(Changes{}, std::move(result));
}

/// `leaving`: the disks that go with the pool.
void check_unused(const Catalog& catalog, const Uuid& pool, const DiskRecord& disk,
                  const std::set<Uuid>& leaving) {
    const auto refuse = [&](const ObjectId& user) {
        throw Error(ErrorCode::in_use, "{} is used by {}: it has volumes of {}",
                    catalog.describe({ObjectKind::pool, pool}), catalog.describe(user),
                    catalog.describe({ObjectKind::disk, disk.id}));
    };
    if (disk.vm) refuse({ObjectKind::vm, disk.vm});
    for (const Uuid& volume : catalog.volumes_of_disk(disk.id))
        for (const Uuid& child : catalog.children(volume))
            if (const Uuid above = catalog.volume(child).disk; !leaving.contains(above))
                refuse({ObjectKind::disk, above});
    for (const auto& [id, snapshot] : catalog.snapshots())
        for (const SnapshotDisk& part : snapshot.disks)
            if (part.disk == disk.id) refuse({ObjectKind::snapshot, id});
}

void check_no_snapshot_file(const Catalog& catalog, const Uuid& pool) {
    for (const auto& [id, snapshot] : catalog.snapshots())
        for (const SnapshotFile& file : snapshot.files)
            if (file.pool == pool)
                throw Error(ErrorCode::in_use, "{} is used by {}: it has the file {} of it",
                            catalog.describe({ObjectKind::pool, pool}),
                            catalog.describe({ObjectKind::snapshot, id}), quote(file.file));
}

}  // namespace

async::Task<Uuid> create_pool(Engine& engine, std::string name, std::string path, bool create) {
    check_name("pool", name);
    auto resolve = [path, create] { return resolve_pool_path(path, create); };
    PoolRecord pool;
    pool.path = co_await engine.files().run(std::move(resolve));
    const auto turn = co_await engine.turn_for_new_pools();
    for (const auto& [id, other] : engine.catalog().pools())
        if (other.name == name || other.path == pool.path)
            throw Error(ErrorCode::already_exists, "{} has {} already",
                        engine.catalog().describe({ObjectKind::pool, id}),
                        other.name == name ? "this name" : "this path");
    pool.id = Uuid::make();
    pool.name = std::move(name);
    const Uuid id = pool.id;
    Changes changes;
    changes.put(std::move(pool));
    co_await engine.catalog().commit(std::move(changes), Durability::power);
    co_await engine.inspect_pool(id, true);
    co_return id;
}

async::Task<> remove_pool(Engine& engine, Uuid pool) {
    const Catalog& catalog = engine.catalog();
    (void)catalog.pool(pool);
    for (const Uuid& id : engine.jobs().unfinished())
        if (const JobRecord& job = catalog.job(id); job.subject.id == pool)
            throw Error(ErrorCode::busy, "{} is busy: {}, job {}", catalog.describe({ObjectKind::pool, pool}),
                        job.kind, id.str());
    for (const auto& [id, backup] : catalog.backups())
        if (backup.restored && backup.restored->pool == pool && backup.state != BackupState::failed)
            throw Error(ErrorCode::in_use, "{} is used by {}; finish or abort that",
                        catalog.describe({ObjectKind::pool, pool}),
                        catalog.describe({ObjectKind::backup, id}));
    check_no_snapshot_file(catalog, pool);
    std::vector<ObjectId> locks{{ObjectKind::pool, pool}};
    Changes changes;
    std::set<Uuid> disks;
    for (const auto& [id, volume] : catalog.volumes())
        if (volume.pool == pool) disks.insert(volume.disk);
    for (const Uuid& disk : disks) {
        check_unused(catalog, pool, catalog.disk(disk), disks);
        locks.push_back({ObjectKind::disk, disk});
        for (const Uuid& volume : catalog.volumes_of_disk(disk)) changes.remove(ObjectKind::volume, volume);
        changes.remove(ObjectKind::disk, disk);
    }
    for (const Uuid& disk : disks)
        for (const Uuid& volume : catalog.volumes_of_disk(disk)) check_not_exported(catalog, volume);
    const auto held = engine.locks().take(std::move(locks), "being removed", Uuid{});
    changes.remove(ObjectKind::pool, pool);
    co_await engine.catalog().commit(std::move(changes), Durability::power);
}

async::Task<Uuid> refresh_pool(Engine& engine, Uuid pool, std::uint32_t owner_uid) {
    (void)engine.catalog().pool(pool);
    JobRequest request("refresh-pool", {ObjectKind::pool, pool}, owner_uid);
    request.locks.push_back({ObjectKind::pool, pool});
    Operation operation = [&engine](JobPtr job) { return refresh(engine, std::move(job)); };
    co_return co_await engine.jobs().start(std::move(request), std::move(operation));
}

}  // namespace volchain::storage
