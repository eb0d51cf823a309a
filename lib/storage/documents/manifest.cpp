// SPDX-License-Identifier: MIT
#include "storage/documents/manifest.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

#include "base/file.h"
#include "base/text.h"
#include "storage/records/schedule_settings.h"

namespace volchain::storage {
namespace {

constexpr const char* manifest_directory = ".volchain";

Json reference(const Uuid& id) {
    return id.nil() ? Json(nullptr) : Json(id.str());
}

/// A configuration is whatever its manager gave us; JSON holds only text.
void put_config(Json& place, const std::string& config, const std::string& type) {
    if (valid_utf8(config))
        place["config"] = config;
    else
        place["config-base64"] = base64(config);
    place["config-type"] = type;
}

Json volumes_of(const Catalog& catalog, const Uuid& disk) {
    Json all = Json::array();
    for (const Uuid& id : catalog.volumes_of_disk(disk)) {
        const VolumeRecord& volume = catalog.volume(id);
        all.push_back({{"id", id.str()},
                       {"pool", catalog.pool(volume.pool).path},
                       {"file", volume.file},
                       {"format", word(volume.format)},
                       {"created-usec", to_usec(volume.created)},
                       {"mark", word(volume.mark)}});
    }
    return all;
}

Json files_of(const Catalog& catalog, const std::vector<SnapshotFile>& files) {
    Json all = Json::array();
    for (const SnapshotFile& file : files) {
        Json entry{{"kind", word(file.kind)},
                   {"pool", catalog.pool(file.pool).path},
                   {"file", file.file},
                   {"bytes", file.bytes}};
        if (!file.store.empty()) entry["store"] = file.store;
        all.push_back(std::move(entry));
    }
    return all;
}

Json disks_of(const Catalog& catalog, const Uuid& vm) {
    Json all = Json::array();
    for (const Uuid& id : catalog.disks_of_vm(vm)) {
        const DiskRecord& disk = catalog.disk(id);
        all.push_back({{"id", id.str()},
                       {"name", disk.name},
                       {"target", disk.target},
                       {"active", disk.active.str()},
                       {"former", reference(disk.former)},
                       {"shareable", disk.shareable},
                       {"node-options", disk.node_options},
                       {"volumes", volumes_of(catalog, id)}});
    }
    return all;
}

Json snapshots_of(const Catalog& catalog, const Uuid& vm) {
    Json all = Json::array();
    for (const Uuid& id : catalog.snapshots_of_vm(vm)) {
        const SnapshotRecord& snapshot = catalog.snapshot(id);
        Json disks = Json::array();
        for (const SnapshotDisk& part : snapshot.disks)
            disks.push_back({{"disk", part.disk.str()}, {"volume", part.volume.str()}});
        Json excluded = Json::array();
        for (const ExcludedDisk& part : snapshot.excluded)
            excluded.push_back({{"disk", reference(part.disk)}, {"why", part.why}});
        Json entry{{"id", id.str()},
                   {"name", snapshot.name},
                   {"description", snapshot.description},
                   {"parent", reference(snapshot.parent)},
                   {"created-usec", to_usec(snapshot.created)},
                   {"vm-state", word(snapshot.vm_state)},
                   {"consistency", word(snapshot.consistency)},
                   {"status", word(snapshot.status)},
                   {"origin", snapshot.origin},
                   {"schedule", reference(snapshot.schedule)},
                   {"disks", std::move(disks)},
                   {"excluded", std::move(excluded)},
                   {"files", files_of(catalog, snapshot.files)}};
        put_config(entry, snapshot.config, snapshot.config_type);
        all.push_back(std::move(entry));
    }
    return all;
}

Json pools_of(const Catalog& catalog, const Uuid& vm) {
    Json all = Json::array();
    for (const std::string& path : manifest_pools(catalog, vm))
        for (const auto& [id, pool] : catalog.pools())
            if (pool.path == path) all.push_back({{"id", id.str()}, {"name", pool.name}, {"path", path}});
    return all;
}

Json schedules_of(const Catalog& catalog, const Uuid& vm) {
    Json all = Json::array();
    for (const Uuid& id : catalog.schedules_of_vm(vm)) {
        const ScheduleRecord& schedule = catalog.schedule(id);
        all.push_back({{"id", id.str()},
                       {"name", schedule.name},
                       {"settings", schedule_settings(schedule)},
                       {"last-usec", to_usec(schedule.last)},
                       {"last-result", schedule.last_result}});
    }
    return all;
}

}  // namespace

Json manifest(const Catalog& catalog, const Uuid& vm) {
    const VmRecord& record = catalog.vm(vm);
    Json entry{{"id", vm.str()},
               {"name", record.name},
               {"current-snapshot", reference(record.current_snapshot)},
               {"adopt", record.adopt},
               {"foreign-manager", record.foreign_manager},
               {"profiles", record.profiles},
               {"resumes-from", reference(record.resumes_from)}};
    put_config(entry, record.config, record.config_type);
    if (record.preview) {
        Json preview{{"snapshot", reference(record.preview->snapshot)},
                     {"with-config", record.preview->with_config}};
        preview["former-resumes-from"] = reference(record.preview->former_resumes_from);
        preview["former-nvram"] = files_of(catalog, record.preview->former_nvram);
        put_config(preview, record.preview->former_config, record.preview->former_config_type);
        entry["preview"] = std::move(preview);
    }
    return {{"volchain-manifest", manifest_version},  {"vm", std::move(entry)},
            {"pools", pools_of(catalog, vm)},         {"disks", disks_of(catalog, vm)},
            {"snapshots", snapshots_of(catalog, vm)}, {"schedules", schedules_of(catalog, vm)}};
}

std::vector<std::string> manifest_pools(const Catalog& catalog, const Uuid& vm) {
    std::vector<std::string> paths;
    for (const Uuid& disk : catalog.disks_of_vm(vm))
        for (const Uuid& volume : catalog.volumes_of_disk(disk))
            paths.push_back(catalog.pool(catalog.volume(volume).pool).path);
    for (const Uuid& snapshot : catalog.snapshots_of_vm(vm))
        for (const SnapshotFile& file : catalog.snapshot(snapshot).files)
            paths.push_back(catalog.pool(file.pool).path);
    std::sort(paths.begin(), paths.end());
    paths.erase(std::unique(paths.begin(), paths.end()), paths.end());
    return paths;
}

void write_manifest(const std::string& pool, const Uuid& vm, Json document) {
    document["written-in"] = pool;
    const UniqueFd directory = open_directory(pool);
    const bool made = ::mkdirat(directory.get(), manifest_directory, 0700) == 0;
    if (!made && errno != EEXIST)
        throw system_error(errno, "cannot make " + quote(pool + "/" + manifest_directory));
    if (made) sync(directory.get(), quote(pool));
    const UniqueFd place = open_beneath(directory.get(), manifest_directory, O_RDONLY | O_DIRECTORY);
    replace_file(place.get(), vm.str() + ".json", document.dump(1), 0600);
}

}  // namespace volchain::storage
