// SPDX-License-Identifier: MIT
#include "storage/documents/import_manifest.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "base/file.h"
#include "base/text.h"
#include "storage/documents/manifest.h"
#include "storage/records/schedule_settings.h"
#include "storage/records/snapshot_file.h"
#include "storage/snapshots/snapshot_options.h"
#include "storage/snapshots/snapshots.h"
#include "storage/vms/vms.h"

namespace volchain::storage {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t max_manifest = std::size_t{64} << 20;

/// What a manifest says, as records. The pools' ids are those of this host once they are settled.
struct Taken {
    VmRecord vm;
    std::string written_in;
    std::map<std::string, PoolRecord> pools;  ///< by the path that they had
    std::vector<DiskRecord> disks;
    std::vector<std::pair<VolumeRecord, std::string>> volumes;  ///< with the path of the pool
    /// Those of snapshots, with the path of the pool; those of the preview have the nil id.
    std::vector<std::tuple<Uuid, SnapshotFile, std::string>> files;
    std::vector<SnapshotRecord> snapshots;
    std::vector<ScheduleRecord> schedules;
};

// --- reading -----------------------------------------------------------------------------------------

Uuid needed_id(const JsonReader& value) {
    const auto id = Uuid::parse(value.string());
    if (!id || id->nil()) value.fail("a UUID");
    return *id;
}

Uuid optional_id(const JsonReader& object, std::string_view member) {
    const auto value = object.find(member);
    return value ? needed_id(*value) : Uuid{};
}

template <typename E>
E manifest_word(const JsonReader& value) {
    const auto known = from_word<E>(value.string());
    if (!known) value.fail("one of " + all_words<E>());
    return *known;
}

Timestamp manifest_time(const JsonReader& value) {
    constexpr std::uint64_t latest = 1ULL << 60;
    if (value.u64() > latest) value.fail("a time");
    return from_usec(value.u64());
}

void read_config(const JsonReader& place, std::string& config, std::string& type) {
    config = place.string_or("config", "");
    type = place.string_or("config-type", "");
    const auto encoded = place.find("config-base64");
    if (!encoded) return;
    auto bytes = from_base64(encoded->string());
    if (!bytes) encoded->fail("base64");
    config = *std::move(bytes);
}

void check_file_name(const JsonReader& value) {
    const fs::path file(value.string());
    const bool out = std::find(file.begin(), file.end(), "..") != file.end();
    if (file.empty() || file.is_absolute() || out || value.string().find('\0') != std::string::npos)
        value.fail("the path of a file in the pool");
}

/// Of a snapshot, or (nil) of the preview. None in manifests of earlier versions.
void read_files(const JsonReader& place, std::string_view member, const Uuid& snapshot, Taken& taken) {
    const auto list = place.find(member);
    if (!list) return;
    for (const JsonReader& entry : list->elements()) {
        check_file_name(entry.at("file"));
        SnapshotFile file;
        file.kind = manifest_word<SnapshotFileKind>(entry.at("kind"));
        file.file = entry.at("file").string();
        file.bytes = entry.at("bytes").u64();
        file.store = entry.string_or("store", "");
        taken.files.emplace_back(snapshot, std::move(file), entry.at("pool").string());
    }
}

VmRecord read_vm(const JsonReader& entry, Taken& taken) {
    VmRecord vm;
    vm.id = needed_id(entry.at("id"));
    vm.name = entry.at("name").string();
    vm.current_snapshot = optional_id(entry, "current-snapshot");
    vm.adopt = entry.boolean_or("adopt", true);
    vm.foreign_manager = entry.boolean_or("foreign-manager", false);
    read_config(entry, vm.config, vm.config_type);
    if (const auto profiles = entry.find("profiles")) {
        for (const auto& [name, options] : profiles->json().items())
            vm.profiles[name] = SnapshotOptions::from_json(options, ErrorCode::corrupt_image).json();
    }
    if (const auto shown = entry.find("preview")) {
        vm.preview.emplace();
        vm.preview->snapshot = optional_id(*shown, "snapshot");
        vm.preview->with_config = shown->boolean_or("with-config", false);
        read_config(*shown, vm.preview->former_config, vm.preview->former_config_type);
        vm.preview->former_resumes_from = optional_id(*shown, "former-resumes-from");
        read_files(*shown, "former-nvram", Uuid{}, taken);
    }
    vm.resumes_from = optional_id(entry, "resumes-from");
    return vm;
}

void read_disk(const JsonReader& entry, Taken& taken) {
    DiskRecord disk;
    disk.id = needed_id(entry.at("id"));
    disk.name = entry.at("name").string();
    disk.vm = taken.vm.id;
    disk.target = entry.at("target").string();
    disk.active = needed_id(entry.at("active"));
    disk.former = optional_id(entry, "former");
    disk.shareable = entry.boolean_or("shareable", false);
    if (const auto options = entry.find("node-options")) disk.node_options = options->json();
    check_name("disk", disk.name);
    check_name("target", disk.target);
    std::set<Uuid> own;
    for (const JsonReader& value : entry.at("volumes").elements()) {
        VolumeRecord volume;
        volume.id = needed_id(value.at("id"));
        volume.disk = disk.id;
        check_file_name(value.at("file"));
        volume.file = value.at("file").string();
        volume.format = manifest_word<VolumeFormat>(value.at("format"));
        volume.created = manifest_time(value.at("created-usec"));
        volume.mark = manifest_word<VolumeMark>(value.at("mark"));
        own.insert(volume.id);
        taken.volumes.emplace_back(std::move(volume), value.at("pool").string());
    }
    if (!own.contains(disk.active)) entry.at("active").fail("one of the disk's volumes");
    if (disk.former && !own.contains(disk.former)) entry.at("former").fail("one of the disk's volumes");
    taken.disks.push_back(std::move(disk));
}

/// One that was just being made is none; one that was just being deleted can only be deleted.
SnapshotStatus settled(SnapshotStatus status) {
    return status == SnapshotStatus::deleting ? SnapshotStatus::failed : status;
}

void read_snapshot_entry(const JsonReader& entry, Taken& taken) {
    SnapshotRecord snapshot;
    snapshot.id = needed_id(entry.at("id"));
    snapshot.vm = taken.vm.id;
    snapshot.name = entry.at("name").string();
    snapshot.description = entry.string_or("description", "");
    snapshot.parent = optional_id(entry, "parent");
    snapshot.created = manifest_time(entry.at("created-usec"));
    snapshot.vm_state = manifest_word<VmState>(entry.at("vm-state"));
    snapshot.consistency = manifest_word<Consistency>(entry.at("consistency"));
    snapshot.status = settled(manifest_word<SnapshotStatus>(entry.at("status")));
    snapshot.origin = entry.at("origin").string();
    snapshot.schedule = optional_id(entry, "schedule");
    read_config(entry, snapshot.config, snapshot.config_type);
    check_name("snapshot", snapshot.name);
    for (const JsonReader& part : entry.at("disks").elements())
        snapshot.disks.push_back({needed_id(part.at("disk")), needed_id(part.at("volume"))});
    for (const JsonReader& part : entry.at("excluded").elements())
        snapshot.excluded.push_back({optional_id(part, "disk"), part.at("why").string()});
    if (snapshot.status == SnapshotStatus::creating) return;
    read_files(entry, "files", snapshot.id, taken);
    taken.snapshots.push_back(std::move(snapshot));
}

void read_schedule_entry(const JsonReader& entry, Taken& taken) {
    ScheduleRecord schedule;
    schedule.id = needed_id(entry.at("id"));
    schedule.name = entry.at("name").string();
    schedule.vm = taken.vm.id;
    read_schedule_settings(entry.at("settings"), schedule);
    schedule.snapshot = SnapshotOptions::from_json(schedule.snapshot, ErrorCode::corrupt_image).json();
    schedule.last = manifest_time(entry.at("last-usec"));
    schedule.last_result = entry.string_or("last-result", "");
    // What was missed meanwhile was missed on another host, or while nobody knew of it.
    schedule.handled = now();
    check_name("schedule", schedule.name);
    (void)Calendar(schedule.calendar, schedule.time_zone);
    taken.schedules.push_back(std::move(schedule));
}

/// Snapshots that are not there are nobody's parent, and not current.
void drop_loose_ends(Taken& taken) {
    const auto there = [&taken](const Uuid& id) {
        return std::any_of(taken.snapshots.begin(), taken.snapshots.end(),
                           [&id](const SnapshotRecord& snapshot) { return snapshot.id == id; });
    };
    for (SnapshotRecord& snapshot : taken.snapshots)
        if (!there(snapshot.parent)) snapshot.parent = Uuid{};
    if (!there(taken.vm.current_snapshot)) taken.vm.current_snapshot = Uuid{};
    if (taken.vm.preview && !there(taken.vm.preview->snapshot)) taken.vm.preview->snapshot = Uuid{};
    if (!there(taken.vm.resumes_from)) taken.vm.resumes_from = Uuid{};
}

Taken read_manifest(const std::string& path) {
    std::error_code ignored;
    const fs::file_status status = fs::symlink_status(path, ignored);
    if (!fs::exists(status)) throw Error(ErrorCode::not_found, "there is no file {}", quote(path));
    if (!fs::is_regular_file(status))
        throw Error(ErrorCode::invalid_argument, "argument 'path': {} is no regular file", quote(path));
    const Json document = parse_json(read_file(path, max_manifest), quote(path), ErrorCode::corrupt_image);
    const JsonReader manifest(document, quote(path), ErrorCode::corrupt_image);
    if (manifest.at("volchain-manifest").u64() != manifest_version)
        throw Error(ErrorCode::unsupported, "{} is a manifest of version {}; this volchain knows {}",
                    quote(path), manifest.at("volchain-manifest").u64(), manifest_version);
    Taken taken;
    taken.written_in = manifest.string_or("written-in", "");
    taken.vm = read_vm(manifest.at("vm"), taken);
    if (const auto pools = manifest.find("pools"))
        for (const JsonReader& pool : pools->elements())
            taken.pools.emplace(pool.at("path").string(),
                                PoolRecord{needed_id(pool.at("id")), pool.at("name").string(), ""});
    for (const JsonReader& disk : manifest.at("disks").elements()) read_disk(disk, taken);
    for (const JsonReader& snapshot : manifest.at("snapshots").elements())
        read_snapshot_entry(snapshot, taken);
    if (const auto schedules = manifest.find("schedules"))
        for (const JsonReader& schedule : schedules->elements()) read_schedule_entry(schedule, taken);
    for (const auto& [volume, pool] : taken.volumes) taken.pools.try_emplace(pool);
    for (const auto& [snapshot, file, pool] : taken.files) taken.pools.try_emplace(pool);
    drop_loose_ends(taken);
    return taken;
}

// --- where it is now -----------------------------------------------------------------------------------

/// Replaces the paths of pools by those of this host. Blocking.
void locate_pools(Taken& taken, const ManifestRequest& request, const std::set<std::string>& known) {
    const std::string here = fs::path(request.path).parent_path().parent_path().string();
    for (auto& [path, pool] : taken.pools) {
        const auto moved = request.pools.find(path);
        const std::string wanted = moved != request.pools.end() ? moved->second
                                   : path == taken.written_in   ? here
                                                                : path;
        pool.path = resolve_pool_path(wanted, false);
        const std::string copy = pool.path + "/.volchain/" + taken.vm.id.str() + ".json";
        std::error_code ignored;
        if (!known.contains(pool.path) && !fs::is_regular_file(fs::symlink_status(copy, ignored)))
            throw Error(
                ErrorCode::not_found,
                "the manifest names the directory {}, which is no pool and has no manifest of this VM; say "
                "where it is now with 'pools', or make it a pool first",
                quote(pool.path));
    }
}

/// Images beside the active ones that stand on one of them and are not in the manifest: it is older than they are.
/// Blocking.
std::vector<std::string> newer_images(const Taken& taken) {
    std::set<std::string> known;
    std::set<std::string> active;
    std::set<std::pair<std::string, std::string>> places;
    for (const auto& [volume, pool] : taken.volumes) {
        const std::string root = taken.pools.at(pool).path;
        const std::string path = (fs::path(root) / volume.file).string();
        known.insert(path);
        for (const DiskRecord& disk : taken.disks) {
            if (disk.active != volume.id && disk.former != volume.id) continue;
            active.insert(path);
            places.emplace(root, fs::path(volume.file).parent_path().string());
        }
    }
    std::vector<std::string> found;
    for (const auto& [root, below] : places) {
        std::error_code failure;
        for (const fs::directory_entry& entry : fs::directory_iterator(fs::path(root) / below, failure)) {
            const std::string path = entry.path().string();
            std::error_code ignored;
            if (known.contains(path) || !fs::is_regular_file(entry.symlink_status(ignored))) continue;
            const std::string file = (fs::path(below) / entry.path().filename()).string();
            const VolumeFacts facts = inspect_image(root, file, VolumeFormat::qcow2);
            if (facts.backing && active.contains(facts.backing->path)) found.push_back(path);
        }
    }
    return found;
}

// --- records -------------------------------------------------------------------------------------------

template <typename T>
void check_unknown(const Catalog& catalog, ObjectKind kind, const T& records) {
    for (const auto& record : records)
        if (catalog.has({kind, record.id}))
            throw Error(ErrorCode::already_exists, "{} is known already",
                        catalog.describe({kind, record.id}));
}

/// A file of a snapshot goes with it: it must not be something else.
void check_files_unknown(const Catalog& catalog, const Taken& taken) {
    std::set<std::string> volumes;
    for (const auto& [volume, pool] : taken.volumes)
        volumes.insert((fs::path(taken.pools.at(pool).path) / volume.file).string());
    for (const auto& [snapshot, file, pool] : taken.files) {
        const std::string path = (fs::path(taken.pools.at(pool).path) / file.file).string();
        if (volumes.contains(path) || catalog.find_volume(path) != nullptr ||
            snapshot_with_file(catalog, path))
            throw Error(
                ErrorCode::already_exists,
                "{} is named as a file of a snapshot, and is a volume, or belongs to another snapshot",
                quote(path));
    }
}

void check_new(const Catalog& catalog, const Taken& taken) {
    check_name("VM", taken.vm.name);
    if (catalog.has({ObjectKind::vm, taken.vm.id}))
        throw Error(ErrorCode::already_exists, "{} is known already; unregister it to import it anew",
                    catalog.describe({ObjectKind::vm, taken.vm.id}));
    catalog.check_vm_name_free(taken.vm.name, taken.vm.id);
    check_unknown(catalog, ObjectKind::disk, taken.disks);
    check_unknown(catalog, ObjectKind::snapshot, taken.snapshots);
    check_unknown(catalog, ObjectKind::schedule, taken.schedules);
    for (const auto& [volume, pool] : taken.volumes) {
        const std::string path = (fs::path(taken.pools.at(pool).path) / volume.file).string();
        const VolumeRecord* known = catalog.find_volume(path);
        if (known != nullptr || catalog.has({ObjectKind::volume, volume.id}))
            throw Error(ErrorCode::already_exists,
                        "{} is a volume already; its disk has to be forgotten before", quote(path));
    }
    check_files_unknown(catalog, taken);
}

/// Names are for people: where one is taken by now, another one is made of it.
void give_free_names(const Catalog& catalog, Taken& taken) {
    const std::set<std::string> claimed = catalog.claimed_disk_names();
    std::vector<std::string> names(claimed.begin(), claimed.end());
    for (const auto& [id, disk] : catalog.disks()) names.push_back(disk.name);
    for (DiskRecord& disk : taken.disks) {
        disk.name = free_name(disk.name, names);
        names.push_back(disk.name);
    }
}

/// The pools that are not known yet become known; each gets the id that it has here.
std::vector<Uuid> settle_pools(const Catalog& catalog, Taken& taken, Changes& changes) {
    std::vector<Uuid> made;
    std::vector<std::string> names;
    std::map<std::string, Uuid> by_path;
    for (const auto& [id, pool] : catalog.pools()) {
        names.push_back(pool.name);
        by_path[pool.path] = id;
    }
    for (auto& [path, pool] : taken.pools) {
        const auto known = by_path.find(pool.path);
        if (known != by_path.end()) {
            pool.id = known->second;
            continue;
        }
        if (pool.id.nil() || catalog.has({ObjectKind::pool, pool.id})) pool.id = Uuid::make();
        if (pool.name.empty()) pool.name = fs::path(pool.path).filename().string();
        pool.name = free_name(pool.name, names);
        names.push_back(pool.name);
        by_path[pool.path] = pool.id;
        made.push_back(pool.id);
        changes.put(pool);
    }
    return made;
}

/// To the snapshots, and the preview, that they are of.
void give_files(Taken& taken) {
    for (auto& [snapshot, file, pool] : taken.files) {
        file.pool = taken.pools.at(pool).id;
        if (snapshot.nil() && taken.vm.preview) taken.vm.preview->former_nvram.push_back(file);
        for (SnapshotRecord& record : taken.snapshots)
            if (record.id == snapshot) record.files.push_back(file);
    }
}

void put_records(Taken& taken, Changes& changes) {
    give_files(taken);
    changes.put(taken.vm);
    for (DiskRecord& disk : taken.disks) changes.put(disk);
    for (auto& [volume, pool] : taken.volumes) {
        volume.pool = taken.pools.at(pool).id;
        changes.put(volume);
    }
    for (const SnapshotRecord& snapshot : taken.snapshots) changes.put(snapshot);
    for (const ScheduleRecord& schedule : taken.schedules) changes.put(schedule);
    changes.put(ManifestStale{taken.vm.id, true});
}

async::Task<> look_at_imported(Engine& engine, Uuid vm, std::vector<Uuid> pools, std::vector<Uuid> volumes) {
    for (const Uuid& pool : pools) co_await engine.inspect_pool(pool, true);
    co_await engine.inspect_volumes(std::move(volumes));
    engine.attend(engine.catalog().vm(vm)).start();
}

}  // namespace

async::Task<Uuid> import_manifest(Engine& engine, ManifestRequest request) {
    if (!fs::path(request.path).is_absolute())
        throw Error(ErrorCode::invalid_argument, "argument 'path': {} is not an absolute path",
                    quote(request.path));
    std::set<std::string> known;
    for (const auto& [id, pool] : engine.catalog().pools()) known.insert(pool.path);
    auto read = [request, known] {
        Taken taken = read_manifest(request.path);
        locate_pools(taken, request, known);
        if (!request.name.empty()) taken.vm.name = request.name;
        return taken;
    };
    Taken taken = co_await engine.files().run(std::move(read));
    const Uuid vm = taken.vm.id;
    const auto held = engine.locks().take({{ObjectKind::vm, vm}}, "being imported", Uuid{});
    check_new(engine.catalog(), taken);
    auto look = [taken] { return newer_images(taken); };
    const std::vector<std::string> newer = co_await engine.files().run(std::move(look));
    if (!newer.empty() && !request.ignore_newer)
        throw Error(
            ErrorCode::broken_chain,
            "{} stand(s) on what the manifest says the VM writes to: the manifest is older. What was written "
            "since would be missed, and destroyed when the VM runs; see what it is, and say "
            "ignore-newer=true "
            "if that is wanted",
            clipped(joined(newer, ", "), 500));
    std::vector<Uuid> pools;
    std::vector<Uuid> volumes;
    {
        const auto turn = co_await engine.turn_for_new_pools();
        check_new(engine.catalog(), taken);
        give_free_names(engine.catalog(), taken);
        Changes changes;
        pools = settle_pools(engine.catalog(), taken, changes);
        put_records(taken, changes);
        for (const auto& [volume, pool] : taken.volumes) volumes.push_back(volume.id);
        co_await engine.catalog().commit(std::move(changes), Durability::power);
    }
    co_await look_at_imported(engine, vm, std::move(pools), std::move(volumes));
    engine.write_manifests();
    engine.schedules().look();
    co_return vm;
}

}  // namespace volchain::storage
