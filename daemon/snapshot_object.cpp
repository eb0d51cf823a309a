// SPDX-License-Identifier: MIT
#include "daemon/snapshot_object.h"

#include "daemon/export_object.h"
#include "storage/documents/snapshot_documents.h"
#include "storage/merges/remove_volumes.h"
#include "storage/previews/preview.h"
#include "storage/records/preview_state.h"
#include "storage/snapshots/diff_snapshots.h"
#include "storage/snapshots/snapshots.h"

namespace volchain::daemon {

using storage::ObjectKind;

namespace {

/// None: what is there now.
std::optional<Uuid> other_state(const bus::ObjectPath& path) {
    if (path.none()) return std::nullopt;
    return id_in(path, ObjectKind::snapshot, "other");
}

}  // namespace

bus::Interface<SnapshotObject> SnapshotObject::table() {
    bus::Interface<SnapshotObject> table(interface_name(ObjectKind::snapshot), *this);
    table.method<&SnapshotObject::preview>("Preview", bus::in("options"), bus::out("job"))
        .method<&SnapshotObject::revert>("Revert", bus::in("options"), bus::out("job"))
        .method<&SnapshotObject::remove>("Delete", bus::in("options"), bus::out("job"))
        .method<&SnapshotObject::clone>("Clone", bus::in("name", "options"), bus::out("job"))
        .method<&SnapshotObject::export_disk>("Export", bus::in("disk", "options"), bus::out("job"))
        .method<&SnapshotObject::set_metadata>("SetMetadata", bus::in("options"), bus::out())
        .method<&SnapshotObject::get_config>("GetConfig", bus::in(), bus::out("config", "type"))
        .method<&SnapshotObject::to_xml>("ToXML", bus::in(), bus::out("xml"))
        .method<&SnapshotObject::diff>("Diff", bus::in("other", "options"), bus::out("disks"))
        .method<&SnapshotObject::diff_map>("DiffMap", bus::in("other", "disk", "start"),
                                           bus::out("extents", "next"))
        .property<&SnapshotObject::id>("Id", bus::Change::never)
        .property<&SnapshotObject::name>("Name", bus::Change::signalled)
        .property<&SnapshotObject::description>("Description", bus::Change::signalled)
        .property<&SnapshotObject::vm>("VM", bus::Change::signalled)
        .property<&SnapshotObject::parent>("Parent", bus::Change::signalled)
        .property<&SnapshotObject::children>("Children", bus::Change::signalled)
        .property<&SnapshotObject::created>("CreatedUsec", bus::Change::never)
        .property<&SnapshotObject::vm_state>("VMState", bus::Change::signalled)
        .property<&SnapshotObject::consistency>("Consistency", bus::Change::signalled)
        .property<&SnapshotObject::status>("Status", bus::Change::signalled)
        .property<&SnapshotObject::disks>("Disks", bus::Change::signalled)
        .property<&SnapshotObject::excluded>("Excluded", bus::Change::signalled)
        .property<&SnapshotObject::memory_bytes>("MemoryBytes", bus::Change::signalled)
        .property<&SnapshotObject::memory_path>("MemoryPath", bus::Change::signalled)
        .property<&SnapshotObject::nvram>("Nvram", bus::Change::signalled)
        .property<&SnapshotObject::origin>("Origin", bus::Change::never)
        .property<&SnapshotObject::schedule>("Schedule", bus::Change::signalled)
        .property<&SnapshotObject::current>("Current", bus::Change::signalled);
    return table;
}

async::Task<bus::ObjectPath> SnapshotObject::preview(bus::Call call, Uuid id, bus::Options options) {
    const bool with_config = options.take<bool>("config", true);
    const auto memory = options.take<bool>("memory");
    options.finish();
    const uid_t owner = co_await call.sender_uid();
    auto request = storage::PreviewRequest::of_snapshot(engine_.catalog(), id, with_config);
    request.memory = memory;
    request.owner_uid = owner;
    const Uuid job = co_await storage::preview(engine_, std::move(request));
    co_return object_path(ObjectKind::job, job);
}

async::Task<bus::ObjectPath> SnapshotObject::revert(bus::Call call, Uuid id, bus::Options options) {
    const bool with_config = options.take<bool>("config", true);
    const bool keep_branch = options.take<bool>("keep-branch", false);
    const auto memory = options.take<bool>("memory");
    options.finish();
    const uid_t owner = co_await call.sender_uid();
    auto request = storage::PreviewRequest::of_snapshot(engine_.catalog(), id, with_config);
    request.memory = memory;
    request.owner_uid = owner;
    const Uuid job = co_await storage::revert(engine_, std::move(request), keep_branch);
    co_return object_path(ObjectKind::job, job);
}

async::Task<bus::ObjectPath> SnapshotObject::clone(bus::Call call, Uuid id, std::string name,
                                                   bus::Options options) {
    storage::CloneRequest request({ObjectKind::snapshot, id}, std::move(name));
    request.pool = take_id(options, "pool", ObjectKind::pool);
    using Pools = std::map<bus::ObjectPath, bus::ObjectPath>;
    for (const auto& [disk, pool] : options.take<Pools>("pools", Pools()))
        request.pools.emplace(id_in(disk, ObjectKind::disk, "pools"), id_in(pool, ObjectKind::pool, "pools"));
    request.disks = take_ids(options, "disks", ObjectKind::disk);
    request.thin = options.take<bool>("thin", false);
    request.shareable = take_word<storage::ShareablePolicy>(options, "shareable").value_or(request.shareable);
    take_clone_options(options, request);
    options.finish();
    request.owner_uid = co_await call.sender_uid();
    const Uuid job = co_await storage::clone(engine_, std::move(request));
    co_return object_path(ObjectKind::job, job);
}

async::Task<bus::ObjectPath> SnapshotObject::export_disk(bus::Call call, Uuid id, bus::ObjectPath disk,
                                                         bus::Options options) {
    const Uuid disk_id = id_in(disk, ObjectKind::disk, "disk");
    auto request = co_await take_export_request(bus_, call, std::move(options));
    const Uuid job = co_await storage::export_snapshot(engine_, id, disk_id, std::move(request));
    co_return object_path(ObjectKind::job, job);
}

async::Task<> SnapshotObject::set_metadata(bus::Call, Uuid id, bus::Options options) {
    auto name = options.take<std::string>("name");
    auto description = options.take<std::string>("description");
    options.finish();
    co_await storage::set_snapshot_metadata(engine_, id, std::move(name), std::move(description));
}

async::Task<bus::ObjectPath> SnapshotObject::remove(bus::Call call, Uuid id, bus::Options options) {
    storage::MergeOptions request;
    request.speed = options.take<std::uint64_t>("speed", 0);
    const bool children = options.take<bool>("children", false);
    options.finish();
    request.owner_uid = co_await call.sender_uid();
    const Uuid job = co_await storage::delete_snapshot(engine_, id, children, request);
    co_return object_path(ObjectKind::job, job);
}

async::Task<std::tuple<Bytes, std::string>> SnapshotObject::get_config(bus::Call, Uuid id) {
    const storage::SnapshotRecord& snapshot = engine_.catalog().snapshot(id);
    co_return std::make_tuple(to_bytes(snapshot.config), snapshot.config_type);
}

async::Task<std::string> SnapshotObject::to_xml(bus::Call, Uuid id) {
    co_return storage::snapshot_document(engine_.catalog(), id);
}

async::Task<std::vector<DiskDifference>> SnapshotObject::diff(bus::Call, Uuid id, bus::ObjectPath other,
                                                              bus::Options options) {
    options.finish();
    const auto there = other_state(other);
    const auto disks = co_await storage::diff_snapshots(engine_, id, there);
    std::vector<DiskDifference> all;
    for (const storage::DiskDiff& diff : disks)
        all.emplace_back(object_path(ObjectKind::disk, diff.disk), word(diff.presence), diff.size_here,
                         diff.size_there, diff.bytes, diff.extents);
    co_return all;
}

async::Task<std::tuple<Extents, std::uint64_t>> SnapshotObject::diff_map(bus::Call, Uuid id,
                                                                         bus::ObjectPath other,
                                                                         bus::ObjectPath disk,
                                                                         std::uint64_t start) {
    const Uuid disk_id = id_in(disk, ObjectKind::disk, "disk");
    const auto there = other_state(other);
    const auto page = co_await storage::diff_disk(engine_, id, there, disk_id, start);
    co_return std::make_tuple(to_extents(page.extents), page.next.value_or(0));
}

std::string SnapshotObject::name(Uuid id) const {
    return engine_.catalog().snapshot(id).name;
}
std::string SnapshotObject::description(Uuid id) const {
    return engine_.catalog().snapshot(id).description;
}
bus::ObjectPath SnapshotObject::vm(Uuid id) const {
    return object_path(ObjectKind::vm, engine_.catalog().snapshot(id).vm);
}

bus::ObjectPath SnapshotObject::parent(Uuid id) const {
    return object_path(ObjectKind::snapshot, engine_.catalog().snapshot(id).parent);
}

std::vector<bus::ObjectPath> SnapshotObject::children(Uuid id) const {
    const auto& catalog = engine_.catalog();
    std::vector<Uuid> children;
    for (const Uuid& other : catalog.snapshots_of_vm(catalog.snapshot(id).vm))
        if (catalog.snapshot(other).parent == id) children.push_back(other);
    return object_paths(ObjectKind::snapshot, children);
}

std::uint64_t SnapshotObject::created(Uuid id) const {
    return to_usec(engine_.catalog().snapshot(id).created);
}
std::string SnapshotObject::vm_state(Uuid id) const {
    return std::string(word(engine_.catalog().snapshot(id).vm_state));
}

std::string SnapshotObject::consistency(Uuid id) const {
    return std::string(word(engine_.catalog().snapshot(id).consistency));
}

std::string SnapshotObject::status(Uuid id) const {
    const auto& catalog = engine_.catalog();
    const storage::SnapshotRecord& snapshot = catalog.snapshot(id);
    const bool whole =
        snapshot.status == storage::SnapshotStatus::ok || snapshot.status == storage::SnapshotStatus::partial;
    if (whole && snapshot.vm && storage::shown_snapshots(catalog, snapshot.vm).contains(id))
        return "previewed";
    return std::string(word(snapshot.status));
}

std::vector<PathPair> SnapshotObject::disks(Uuid id) const {
    std::vector<PathPair> all;
    for (const auto& [disk, volume] : engine_.catalog().snapshot(id).disks)
        all.emplace_back(object_path(ObjectKind::disk, disk), object_path(ObjectKind::volume, volume));
    return all;
}

std::vector<PathText> SnapshotObject::excluded(Uuid id) const {
    std::vector<PathText> all;
    for (const auto& [disk, why] : engine_.catalog().snapshot(id).excluded)
        all.emplace_back(object_path(ObjectKind::disk, disk), why);
    return all;
}

std::uint64_t SnapshotObject::memory_bytes(Uuid id) const {
    const storage::SnapshotFile* const memory = storage::memory_of(engine_.catalog().snapshot(id));
    return memory == nullptr ? 0 : memory->bytes;
}

std::string SnapshotObject::memory_path(Uuid id) const {
    const storage::SnapshotFile* const memory = storage::memory_of(engine_.catalog().snapshot(id));
    if (memory == nullptr) return {};
    return engine_.catalog().pool(memory->pool).path + "/" + memory->file;
}

std::vector<std::string> SnapshotObject::nvram(Uuid id) const {
    std::vector<std::string> stores;
    for (const storage::SnapshotFile& file : engine_.catalog().snapshot(id).files)
        if (file.kind == storage::SnapshotFileKind::nvram) stores.push_back(file.store);
    return stores;
}

std::string SnapshotObject::origin(Uuid id) const {
    return engine_.catalog().snapshot(id).origin;
}

bus::ObjectPath SnapshotObject::schedule(Uuid id) const {
    const Uuid schedule = engine_.catalog().snapshot(id).schedule;
    const bool there = engine_.catalog().has({ObjectKind::schedule, schedule});
    return object_path(ObjectKind::schedule, there ? schedule : Uuid{});
}

bool SnapshotObject::current(Uuid id) const {
    const auto& catalog = engine_.catalog();
    const auto vm = catalog.vms().find(catalog.snapshot(id).vm);
    return vm != catalog.vms().end() && vm->second.current_snapshot == id;
}

}  // namespace volchain::daemon
