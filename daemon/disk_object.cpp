// SPDX-License-Identifier: MIT
#include "daemon/disk_object.h"

#include "storage/checks/check_disk.h"
#include "storage/disks/attach_disk.h"
#include "storage/disks/create_overlay.h"
#include "storage/disks/delete_disk.h"
#include "storage/disks/detach_disk.h"
#include "storage/disks/move_disk.h"
#include "storage/disks/resize_disk.h"
#include "storage/merges/remove_volumes.h"
#include "storage/snapshots/create_snapshot.h"

namespace volchain::daemon {

using storage::ObjectKind;

bus::Interface<DiskObject> DiskObject::table() {
    bus::Interface<DiskObject> table(interface_name(ObjectKind::disk), *this);
    table.method<&DiskObject::create_overlay>("CreateOverlay", bus::in("options"), bus::out("job"))
        .method<&DiskObject::check>("Check", bus::in("options"), bus::out("job"))
        .method<&DiskObject::attach>("Attach", bus::in("vm", "target", "options"), bus::out("job"))
        .method<&DiskObject::detach>("Detach", bus::in("options"), bus::out("job"))
        .method<&DiskObject::flatten>("Flatten", bus::in("options"), bus::out("job"))
        .method<&DiskObject::create_snapshot>("CreateSnapshot", bus::in("name", "options"), bus::out("job"))
        .method<&DiskObject::move>("Move", bus::in("pool", "options"), bus::out("job"))
        .method<&DiskObject::resize>("Resize", bus::in("size", "options"), bus::out("job"))
        .method<&DiskObject::delete_disk>("Delete", bus::in("options"), bus::out("job"))
        .property<&DiskObject::id>("Id", bus::Change::never)
        .property<&DiskObject::name>("Name", bus::Change::signalled)
        .property<&DiskObject::pool>("Pool", bus::Change::signalled)
        .property<&DiskObject::vm>("VM", bus::Change::signalled)
        .property<&DiskObject::target>("Target", bus::Change::signalled)
        .property<&DiskObject::active>("Active", bus::Change::signalled)
        .property<&DiskObject::active_path>("ActivePath", bus::Change::signalled)
        .property<&DiskObject::former>("Former", bus::Change::signalled)
        .property<&DiskObject::volumes>("Volumes", bus::Change::signalled)
        .property<&DiskObject::size>("SizeBytes", bus::Change::signalled)
        .property<&DiskObject::state>("State", bus::Change::signalled)
        .property<&DiskObject::shareable>("Shareable", bus::Change::signalled);
    return table;
}

async::Task<bus::ObjectPath> DiskObject::create_overlay(bus::Call call, Uuid id, bus::Options options) {
    storage::OverlayRequest request(id);
    request.backing = take_id(options, "backing", ObjectKind::volume).value_or(Uuid{});
    request.activate = options.take<bool>("activate", false);
    options.finish();
    request.owner_uid = co_await call.sender_uid();
    const Uuid job = co_await storage::create_overlay(engine_, request);
    co_return object_path(ObjectKind::job, job);
}

async::Task<bus::ObjectPath> DiskObject::check(bus::Call call, Uuid id, bus::Options options) {
    storage::CheckRequest request(id);
    request.repair = options.take<bool>("repair", false);
    options.finish();
    request.owner_uid = co_await call.sender_uid();
    const Uuid job = co_await storage::check_disk(engine_, request);
    co_return object_path(ObjectKind::job, job);
}

async::Task<bus::ObjectPath> DiskObject::attach(bus::Call call, Uuid id, bus::ObjectPath vm,
                                                std::string target, bus::Options options) {
    const Uuid vm_id = id_in(vm, ObjectKind::vm, "vm");
    storage::AttachRequest request(id, vm_id, std::move(target));
    request.device = options.take<std::string>("device", "");
    request.bus = options.take<std::string>("bus", "");
    options.finish();
    request.owner_uid = co_await call.sender_uid();
    const Uuid job = co_await storage::attach_disk(engine_, std::move(request));
    co_return object_path(ObjectKind::job, job);
}

async::Task<bus::ObjectPath> DiskObject::flatten(bus::Call call, Uuid id, bus::Options options) {
    storage::MergeOptions request;
    request.speed = options.take<std::uint64_t>("speed", 0);
    options.finish();
    request.owner_uid = co_await call.sender_uid();
    const Uuid job = co_await storage::flatten_disk(engine_, id, request);
    co_return object_path(ObjectKind::job, job);
}

async::Task<bus::ObjectPath> DiskObject::detach(bus::Call call, Uuid id, bus::Options options) {
    storage::DetachRequest request(id);
    request.timeout = take_timeout(options, "timeout-usec");
    options.finish();
    request.owner_uid = co_await call.sender_uid();
    const Uuid job = co_await storage::detach_disk(engine_, request);
    co_return object_path(ObjectKind::job, job);
}

async::Task<bus::ObjectPath> DiskObject::create_snapshot(bus::Call call, Uuid id, std::string name,
                                                         bus::Options options) {
    storage::SnapshotRequest request = storage::snapshot_of_disk(engine_.catalog(), id, std::move(name));
    request.description = options.take<std::string>("description", "");
    request.quiesce = take_word<storage::QuiesceMode>(options, "quiesce").value_or(request.quiesce);
    request.freeze_timeout = take_timeout(options, "freeze-timeout-usec");
    options.finish();
    request.owner_uid = co_await call.sender_uid();
    const Uuid job = co_await storage::create_snapshot(engine_, std::move(request));
    co_return object_path(ObjectKind::job, job);
}

async::Task<bus::ObjectPath> DiskObject::move(bus::Call call, Uuid id, bus::ObjectPath pool,
                                              bus::Options options) {
    storage::MoveRequest request(id, id_in(pool, ObjectKind::pool, "pool"));
    request.collapse = options.take<bool>("collapse", false);
    request.speed = options.take<std::uint64_t>("speed", 0);
    options.finish();
    request.owner_uid = co_await call.sender_uid();
    const Uuid job = co_await storage::move_disk(engine_, request);
    co_return object_path(ObjectKind::job, job);
}

async::Task<bus::ObjectPath> DiskObject::resize(bus::Call call, Uuid id, std::uint64_t size,
                                                bus::Options options) {
    storage::ResizeRequest request(id, size);
    request.shrink = options.take<bool>("shrink", false);
    options.finish();
    request.owner_uid = co_await call.sender_uid();
    const Uuid job = co_await storage::resize_disk(engine_, request);
    co_return object_path(ObjectKind::job, job);
}

async::Task<bus::ObjectPath> DiskObject::delete_disk(bus::Call call, Uuid id, bus::Options options) {
    storage::DeleteRequest request(id);
    request.snapshots = options.take<bool>("snapshots", false);
    options.finish();
    request.owner_uid = co_await call.sender_uid();
    const Uuid job = co_await storage::delete_disk(engine_, request);
    co_return object_path(ObjectKind::job, job);
}

std::string DiskObject::name(Uuid id) const {
    return engine_.catalog().disk(id).name;
}

bus::ObjectPath DiskObject::pool(Uuid id) const {
    const auto& catalog = engine_.catalog();
    return object_path(ObjectKind::pool, catalog.volume(catalog.disk(id).active).pool);
}

bus::ObjectPath DiskObject::vm(Uuid id) const {
    return object_path(ObjectKind::vm, engine_.catalog().disk(id).vm);
}
std::string DiskObject::target(Uuid id) const {
    return engine_.catalog().disk(id).target;
}

bus::ObjectPath DiskObject::active(Uuid id) const {
    return object_path(ObjectKind::volume, engine_.catalog().disk(id).active);
}

std::string DiskObject::active_path(Uuid id) const {
    const auto& catalog = engine_.catalog();
    return catalog.path(catalog.volume(catalog.disk(id).active));
}

bus::ObjectPath DiskObject::former(Uuid id) const {
    return object_path(ObjectKind::volume, engine_.catalog().disk(id).former);
}

std::vector<bus::ObjectPath> DiskObject::volumes(Uuid id) const {
    return object_paths(ObjectKind::volume, engine_.catalog().volumes_of_disk(id));
}

std::uint64_t DiskObject::size(Uuid id) const {
    const auto& catalog = engine_.catalog();
    return catalog.facts(catalog.disk(id).active).size;
}

std::string DiskObject::state(Uuid id) const {
    if (engine_.locks().held({ObjectKind::disk, id})) return "locked";
    if (!engine_.broken(id).empty()) return "broken";
    return engine_.catalog().disk(id).former ? "preview" : "ok";
}

bool DiskObject::shareable(Uuid id) const {
    return engine_.catalog().disk(id).shareable;
}

}  // namespace volchain::daemon
