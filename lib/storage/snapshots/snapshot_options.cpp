// SPDX-License-Identifier: MIT
#include "storage/snapshots/snapshot_options.h"

#include <algorithm>

#include "base/text.h"
#include "storage/snapshots/snapshots.h"

namespace volchain::storage {
namespace {

/// Enough for people; all of them stand in one property.
constexpr std::size_t max_profiles = 64;

Json ids_json(const std::vector<Uuid>& ids) {
    Json all = Json::array();
    for (const Uuid& id : ids) all.push_back(id.str());
    return all;
}

std::vector<Uuid> disk_ids_in(const JsonReader& list) {
    std::vector<Uuid> ids;
    for (const JsonReader& id : list.elements()) ids.push_back(id_in(id));
    return ids;
}

template <typename E>
E word_in(const JsonReader& value) {
    const auto known = from_word<E>(value.string());
    if (!known) value.fail("one of " + all_words<E>());
    return *known;
}

const Json& profile_of(const Catalog& catalog, const Uuid& vm, const std::string& name) {
    const Json& profiles = catalog.vm(vm).profiles;
    const auto found = profiles.find(name);
    if (found == profiles.end())
        throw Error(ErrorCode::not_found, "{} has no profile {}", catalog.describe({ObjectKind::vm, vm}),
                    quote(name));
    return *found;
}

void put_options(const SnapshotOptions& options, SnapshotRequest& request) {
    if (options.description) request.description = *options.description;
    if (options.disks) request.disks = options.disks;
    if (options.exclude) request.exclude = *options.exclude;
    if (options.quiesce) request.quiesce = *options.quiesce;
    if (options.freeze_timeout) request.freeze_timeout = *options.freeze_timeout;
    if (options.on_disk_failure) request.on_disk_failure = *options.on_disk_failure;
    if (options.memory) request.memory = *options.memory;
}

}  // namespace

Json SnapshotOptions::json() const {
    Json all = Json::object();
    if (profile) all["profile"] = *profile;
    if (description) all["description"] = *description;
    if (disks) all["disks"] = ids_json(*disks);
    if (exclude) all["exclude"] = ids_json(*exclude);
    if (quiesce) all["quiesce"] = word(*quiesce);
    if (freeze_timeout) all["freeze-timeout-usec"] = static_cast<std::uint64_t>(freeze_timeout->count());
    if (on_disk_failure) all["on-disk-failure"] = word(*on_disk_failure);
    if (memory) all["memory"] = *memory;
    return all;
}

SnapshotOptions SnapshotOptions::from_json(const Json& json, ErrorCode wrong) {
    const JsonReader all(json, "snapshot options", wrong);
    SnapshotOptions options;
    if (const auto value = all.find("profile")) options.profile = value->string();
    if (const auto value = all.find("description")) options.description = value->string();
    if (const auto value = all.find("disks")) options.disks = disk_ids_in(*value);
    if (const auto value = all.find("exclude")) options.exclude = disk_ids_in(*value);
    if (const auto value = all.find("quiesce")) options.quiesce = word_in<QuiesceMode>(*value);
    if (const auto value = all.find("freeze-timeout-usec"))
        options.freeze_timeout = Microseconds(static_cast<Microseconds::rep>(value->u64()));
    if (const auto value = all.find("on-disk-failure"))
        options.on_disk_failure = word_in<OnDiskFailure>(*value);
    if (const auto value = all.find("memory")) options.memory = value->boolean();
    return options;
}

void check_snapshot_options(const Catalog& catalog, const Uuid& vm, const SnapshotOptions& options) {
    const std::vector<Uuid> of_vm = catalog.disks_of_vm(vm);
    const auto check = [&](const std::optional<std::vector<Uuid>>& disks, std::string_view option) {
        if (disks && disks->empty())
            throw Error(ErrorCode::invalid_argument, "option '{}': it names no disk", option);
        for (const Uuid& disk : disks.value_or(std::vector<Uuid>()))
            if (std::find(of_vm.begin(), of_vm.end(), disk) == of_vm.end())
                throw Error(ErrorCode::invalid_argument, "option '{}': {} is not a disk of {}", option,
                            catalog.describe({ObjectKind::disk, disk}),
                            catalog.describe({ObjectKind::vm, vm}));
    };
    check(options.disks, "disks");
    check(options.exclude, "exclude");
    if (options.description) check_description(*options.description);
    if (options.profile) (void)profile_of(catalog, vm, *options.profile);
}

void apply_snapshot_options(const Catalog& catalog, const SnapshotOptions& options,
                            SnapshotRequest& request) {
    if (options.profile)
        put_options(SnapshotOptions::from_json(profile_of(catalog, request.vm, *options.profile)), request);
    put_options(options, request);
}

async::Task<> save_profile(Engine& engine, Uuid vm, std::string name, SnapshotOptions options) {
    check_name("profile", name);
    if (options.profile)
        throw Error(ErrorCode::invalid_argument, "option 'profile': a profile does not name another one");
    VmRecord record = engine.catalog().vm(vm);
    check_snapshot_options(engine.catalog(), vm, options);
    const auto held = engine.locks().take({{ObjectKind::vm, vm}}, "being changed", Uuid{});
    record.profiles[name] = options.json();
    if (record.profiles.size() > max_profiles)
        throw Error(ErrorCode::invalid_argument, "{} has {} profiles already; delete one",
                    engine.catalog().describe({ObjectKind::vm, vm}), max_profiles);
    Changes changes;
    changes.put(std::move(record)).put(ManifestStale{vm, true});
    co_await engine.catalog().commit(std::move(changes), Durability::power);
    engine.write_manifests();
}

async::Task<> delete_profile(Engine& engine, Uuid vm, std::string name) {
    VmRecord record = engine.catalog().vm(vm);
    (void)profile_of(engine.catalog(), vm, name);
    for (const Uuid& id : engine.catalog().schedules_of_vm(vm))
        if (engine.catalog().schedule(id).snapshot.value("profile", "") == name)
            throw Error(ErrorCode::in_use, "profile {} is used by {}", quote(name),
                        engine.catalog().describe({ObjectKind::schedule, id}));
    const auto held = engine.locks().take({{ObjectKind::vm, vm}}, "being changed", Uuid{});
    record.profiles.erase(name);
    Changes changes;
    changes.put(std::move(record)).put(ManifestStale{vm, true});
    co_await engine.catalog().commit(std::move(changes), Durability::power);
    engine.write_manifests();
}

}  // namespace volchain::storage
