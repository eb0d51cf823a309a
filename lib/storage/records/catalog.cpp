// SPDX-License-Identifier: MIT
#include "storage/records/catalog.h"

#include <algorithm>
#include <filesystem>

#include "base/text.h"

namespace volchain::storage {
namespace {

template <typename T>
std::map<Uuid, T> by_id(std::vector<T> records) {
    std::map<Uuid, T> all;
    for (T& record : records) {
        const Uuid id = record.id;
        all.emplace(id, std::move(record));
    }
    return all;
}

template <typename T, typename Predicate>
std::vector<Uuid> ids_where(const std::map<Uuid, T>& all, const Predicate& predicate) {
    std::vector<Uuid> ids;
    for (const auto& [id, record] : all)
        if (predicate(record)) ids.push_back(id);
    return ids;
}

template <typename T>
std::vector<Uuid> ids_of(const std::map<Uuid, T>& all) {
    std::vector<Uuid> ids;
    ids.reserve(all.size());
    for (const auto& [id, record] : all) ids.push_back(id);
    return ids;
}

}  // namespace

Catalog::Catalog(const std::string& database_path) : store_(database_path) {
    Records records = store_.load();
    pools_ = by_id(std::move(records.pools));
    disks_ = by_id(std::move(records.disks));
    volumes_ = by_id(std::move(records.volumes));
    vms_ = by_id(std::move(records.vms));
    snapshots_ = by_id(std::move(records.snapshots));
    exports_ = by_id(std::move(records.exports));
    backups_ = by_id(std::move(records.backups));
    schedules_ = by_id(std::move(records.schedules));
    jobs_ = by_id(std::move(records.jobs));
    for (const Frozen& frozen : records.frozen) apply(frozen);
    stale_manifests_ = {records.stale_manifests.begin(), records.stale_manifests.end()};
    for (const UnwantedFile& file : records.unwanted_files) apply(file);
    for (const auto& [id, volume] : volumes_) volume_by_path_[path(volume)] = id;
}

async::Task<> Catalog::commit(Changes changes, Durability durability) {
    co_await store_.commit(changes, durability);
    for (const Change& change : changes.all())
        std::visit([this](const auto& record) { apply(record); }, change);
}

template <typename T>
void Catalog::put(std::map<Uuid, T>& all, ObjectKind kind, const T& record) {
    const bool added = all.insert_or_assign(record.id, record).second;
    tell(kind, record.id, added ? ChangeKind::added : ChangeKind::changed);
}

void Catalog::apply(const VolumeRecord& record) {
    if (const auto before = volumes_.find(record.id); before != volumes_.end())
        volume_by_path_.erase(path(before->second));
    volume_by_path_[path(record)] = record.id;
    unwanted_files_.erase(path(record));
    put(volumes_, ObjectKind::volume, record);
}

void Catalog::apply(const Frozen& frozen) {
    if (frozen.since)
        frozen_[frozen.vm] = *frozen.since;
    else
        frozen_.erase(frozen.vm);
}

void Catalog::apply(const ManifestStale& manifest) {
    if (manifest.stale)
        stale_manifests_.insert(manifest.vm);
    else
        stale_manifests_.erase(manifest.vm);
}

void Catalog::apply(const UnwantedFile& file) {
    const std::string path = (std::filesystem::path(file.pool) / file.file).string();
    if (file.unwanted)
        unwanted_files_[path] = file;
    else
        unwanted_files_.erase(path);
}

void Catalog::apply(const Removal& removal) {
    const auto& [kind, id] = removal.object;
    switch (kind) {
        case ObjectKind::pool:
            pools_.erase(id);
            break;
        case ObjectKind::disk:
            disks_.erase(id);
            break;
        case ObjectKind::volume:
            if (const auto found = volumes_.find(id); found != volumes_.end()) {
                volume_by_path_.erase(path(found->second));
                volumes_.erase(found);
            }
            forget_facts(id);
            break;
        case ObjectKind::vm:
            vms_.erase(id);
            break;
        case ObjectKind::snapshot:
            snapshots_.erase(id);
            break;
        case ObjectKind::exported:
            exports_.erase(id);
            break;
        case ObjectKind::backup:
            backups_.erase(id);
            break;
        case ObjectKind::schedule:
            schedules_.erase(id);
            break;
        case ObjectKind::job:
            jobs_.erase(id);
            break;
    }
    tell(kind, id, ChangeKind::removed);
}

void Catalog::tell(ObjectKind kind, const Uuid& id, ChangeKind change) const {
    if (watcher_) watcher_({kind, id}, change);
}

bool Catalog::has(const ObjectId& object) const {
    switch (object.kind) {
        case ObjectKind::pool:
            return pools_.contains(object.id);
        case ObjectKind::disk:
            return disks_.contains(object.id);
        case ObjectKind::volume:
            return volumes_.contains(object.id);
        case ObjectKind::vm:
            return vms_.contains(object.id);
        case ObjectKind::snapshot:
            return snapshots_.contains(object.id);
        case ObjectKind::exported:
            return exports_.contains(object.id);
        case ObjectKind::backup:
            return backups_.contains(object.id);
        case ObjectKind::schedule:
            return schedules_.contains(object.id);
        case ObjectKind::job:
            return jobs_.contains(object.id);
    }
    return false;
}

std::vector<Uuid> Catalog::ids(ObjectKind kind) const {
    switch (kind) {
        case ObjectKind::pool:
            return ids_of(pools_);
        case ObjectKind::disk:
            return ids_of(disks_);
        case ObjectKind::volume:
            return ids_of(volumes_);
        case ObjectKind::vm:
            return ids_of(vms_);
        case ObjectKind::snapshot:
            return ids_of(snapshots_);
        case ObjectKind::exported:
            return ids_of(exports_);
        case ObjectKind::backup:
            return ids_of(backups_);
        case ObjectKind::schedule:
            return ids_of(schedules_);
        case ObjectKind::job:
            return ids_of(jobs_);
    }
    return {};
}

std::string Catalog::describe(const ObjectId& object) const {
    const std::string id = object.id.str();
    if (!has(object)) return fmt::format("{} {}", word(object.kind), id);
    switch (object.kind) {
        case ObjectKind::pool:
            return fmt::format("pool {} ({})", quote(pool(object.id).name), id);
        case ObjectKind::disk:
            return fmt::format("disk {} ({})", quote(disk(object.id).name), id);
        case ObjectKind::volume:
            return fmt::format("volume {} ({})", quote(path(volume(object.id))), id);
        case ObjectKind::vm:
            return fmt::format("VM {} ({})", quote(vm(object.id).name), id);
        case ObjectKind::snapshot:
            return fmt::format("snapshot {} ({})", quote(snapshot(object.id).name), id);
        case ObjectKind::exported:
            return fmt::format("export {} ({})", id, word(exported(object.id).kind));
        case ObjectKind::backup:
            if (const auto& restored = backup(object.id).restored)
                return fmt::format("restore {} of disk {}", id, quote(restored->name));
            return fmt::format("backup {} of {}", id, describe({ObjectKind::vm, backup(object.id).vm}));
        case ObjectKind::schedule:
            return fmt::format("schedule {} ({})", quote(schedule(object.id).name), id);
        case ObjectKind::job:
            return fmt::format("job {} ({})", id, job(object.id).kind);
    }
    return id;
}

Catalog::DiskNameClaim::DiskNameClaim(Catalog& catalog, std::string name)
    : catalog_(catalog), name_(std::move(name)) {
    for (const auto& [id, disk] : catalog.disks_)
        if (disk.name == name_)
            throw Error(ErrorCode::already_exists, "there is a disk {} already ({})", quote(name_), id.str());
    if (catalog.claimed_disk_names().contains(name_))
        throw Error(ErrorCode::already_exists, "a disk {} is just being made", quote(name_));
    catalog.claimed_disk_names_.insert(name_);
}

std::set<std::string> Catalog::claimed_disk_names() const {
    std::set<std::string> names = claimed_disk_names_;
    for (const RestoredDisk& disk : restored_disks()) names.insert(disk.name);
    return names;
}

void Catalog::check_vm_name_free(const std::string& name, const Uuid& but) const {
    for (const auto& [id, vm] : vms_)
        if (id != but && vm.name == name)
            throw Error(ErrorCode::already_exists, "there is a VM {} already ({})", quote(name), id.str());
    if (claimed_vm_names_.contains(name))
        throw Error(ErrorCode::already_exists, "a VM {} is just being made", quote(name));
}

Catalog::VmNameClaim::VmNameClaim(Catalog& catalog, std::string name)
    : catalog_(catalog), name_(std::move(name)) {
    catalog.check_vm_name_free(name_, Uuid{});
    catalog.claimed_vm_names_.insert(name_);
}

std::vector<Uuid> Catalog::disks_of_vm(const Uuid& vm) const {
    return ids_where(disks_, [&](const DiskRecord& disk) { return disk.vm == vm; });
}

const BackupRecord* Catalog::backup_of_disk(const Uuid& disk) const {
    for (const auto& [id, record] : backups_) {
        if (record.source == BackupSource::snapshot) continue;
        const bool has_it = std::any_of(record.disks.begin(), record.disks.end(),
                                        [&](const BackupDisk& part) { return part.disk == disk; });
        if (has_it && record.state != BackupState::failed) return &record;
    }
    return nullptr;
}

std::vector<RestoredDisk> Catalog::restored_disks() const {
    std::vector<RestoredDisk> disks;
    for (const auto& [id, record] : backups_)
        if (record.restored && record.state != BackupState::failed) disks.push_back(*record.restored);
    return disks;
}

std::vector<Uuid> Catalog::snapshots_of_vm(const Uuid& vm) const {
    return ids_where(snapshots_, [&](const SnapshotRecord& snapshot) { return snapshot.vm == vm; });
}

std::vector<Uuid> Catalog::schedules_of_vm(const Uuid& vm) const {
    return ids_where(schedules_, [&](const ScheduleRecord& schedule) { return schedule.vm == vm; });
}

std::vector<Uuid> Catalog::volumes_of_disk(const Uuid& disk) const {
    return ids_where(volumes_, [&](const VolumeRecord& volume) { return volume.disk == disk; });
}

std::string Catalog::path(const VolumeRecord& volume) const {
    return (std::filesystem::path(pool(volume.pool).path) / volume.file).string();
}

const VolumeRecord* Catalog::find_volume(const std::string& path) const {
    const auto found = volume_by_path_.find(path);
    return found == volume_by_path_.end() ? nullptr : &volume(found->second);
}

std::optional<Catalog::Place> Catalog::place(const std::string& path) const {
    // The deepest pool wins where one lies in another's directory.
    const PoolRecord* best = nullptr;
    for (const auto& [id, pool] : pools_) {
        const std::string prefix = pool.path == "/" ? pool.path : pool.path + "/";
        const bool inside = path.size() > prefix.size() && path.starts_with(prefix);
        if (inside && (best == nullptr || pool.path.size() > best->path.size())) best = &pool;
    }
    if (best == nullptr) return std::nullopt;
    return Place{best->id, std::filesystem::path(path).lexically_relative(best->path).string()};
}

void Catalog::set_facts(const Uuid& volume, VolumeFacts facts) {
    forget_facts(volume);
    if (facts.backing) children_by_backing_path_[facts.backing->path].insert(volume);
    facts_[volume] = std::move(facts);
    if (volumes_.contains(volume)) tell(ObjectKind::volume, volume, ChangeKind::changed);
}

void Catalog::forget_facts(const Uuid& volume) {
    const auto found = facts_.find(volume);
    if (found == facts_.end()) return;
    if (found->second.backing) {
        const auto siblings = children_by_backing_path_.find(found->second.backing->path);
        siblings->second.erase(volume);
        if (siblings->second.empty()) children_by_backing_path_.erase(siblings);
    }
    facts_.erase(found);
}

const VolumeFacts& Catalog::facts(const Uuid& volume) const {
    static const VolumeFacts unknown;
    const auto found = facts_.find(volume);
    return found == facts_.end() ? unknown : found->second;
}

Uuid Catalog::backing(const Uuid& volume) const {
    const auto& reference = facts(volume).backing;
    const VolumeRecord* below = reference ? find_volume(reference->path) : nullptr;
    return below == nullptr ? Uuid{} : below->id;
}

std::vector<Uuid> Catalog::children(const Uuid& volume) const {
    const auto found = children_by_backing_path_.find(path(this->volume(volume)));
    if (found == children_by_backing_path_.end()) return {};
    std::vector<Uuid> children;
    // The facts of a volume may be known before it is recorded.
    std::copy_if(found->second.begin(), found->second.end(), std::back_inserter(children),
                 [this](const Uuid& child) { return volumes_.contains(child); });
    return children;
}

std::vector<Uuid> Catalog::chain(const Uuid& top) const {
    std::vector<Uuid> all;
    for (Uuid volume = top; volume && std::find(all.begin(), all.end(), volume) == all.end();
         volume = backing(volume))
        all.push_back(volume);
    return all;
}

std::optional<Timestamp> Catalog::frozen_since(const Uuid& vm) const {
    const auto found = frozen_.find(vm);
    return found == frozen_.end() ? std::nullopt : std::optional(found->second);
}

std::vector<Uuid> Catalog::stale_manifests() const {
    return {stale_manifests_.begin(), stale_manifests_.end()};
}

}  // namespace volchain::storage
