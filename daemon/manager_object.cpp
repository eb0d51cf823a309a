// SPDX-License-Identifier: MIT
#include "daemon/manager_object.h"

#include "base/text.h"
#include "daemon/export_object.h"
#include "daemon/finder.h"
#include "daemon/schedule_object.h"
#include "storage/backups/restore_disk.h"
#include "storage/documents/import_manifest.h"
#include "storage/pools/pools.h"
#include "storage/qemu/helper.h"
#include "storage/vms/vms.h"

namespace volchain::daemon {

using storage::ObjectKind;

bus::Interface<ManagerObject> ManagerObject::table() {
    bus::Interface<ManagerObject> table(manager_interface, *this);
    table
        .method<&ManagerObject::create_pool>("CreatePool", bus::in("name", "path", "options"),
                                             bus::out("pool"))
        .method<&ManagerObject::register_vm>("RegisterVM", bus::in("name", "options"), bus::out("vm"))
        .method<&ManagerObject::create_schedule>(
            "CreateSchedule", bus::in("name", "vm", "calendar", "options"), bus::out("schedule"))
        .method<&ManagerObject::restore_disk>("RestoreDisk", bus::in("name", "pool", "size", "options"),
                                              bus::out("job"))
        .method<&ManagerObject::import_manifest>("ImportManifest", bus::in("path", "options"), bus::out("vm"))
        .method<&ManagerObject::find>("Find", bus::in("kind", "what"), bus::out("object"))
        .property<&ManagerObject::version>("Version", bus::Change::never)
        .property<&ManagerObject::qemu_version>("QemuVersion", bus::Change::never)
        .property<&ManagerObject::features>("Features", bus::Change::never)
        .signal<bus::ObjectPath, std::string, bus::ObjectPath, std::string>(
            "JobFinished", bus::out("job", "kind", "subject", "state"));
    return table;
}

async::Task<bus::ObjectPath> ManagerObject::create_pool(bus::Call, std::string name, std::string path,
                                                        bus::Options options) {
    const bool create = options.take<bool>("create", false);
    options.finish();
    const Uuid pool = co_await storage::create_pool(engine_, std::move(name), std::move(path), create);
    co_return object_path(ObjectKind::pool, pool);
}

async::Task<bus::ObjectPath> ManagerObject::register_vm(bus::Call call, std::string name,
                                                        bus::Options options) {
    storage::VmRequest request(std::move(name));
    if (const auto id = options.take<std::string>("id")) {
        request.id = Uuid::parse(*id);
        if (!request.id)
            throw Error(ErrorCode::invalid_argument, "option 'id': {} is not a UUID", quote(*id));
    }
    request.qmp_socket = options.take<std::string>("qmp-socket", "");
    request.agent_socket = options.take<std::string>("agent-socket", "");
    request.config = to_text(options.take<Bytes>("config", Bytes()));
    request.config_type = options.take<std::string>("config-type", "");
    request.adopt = options.take<bool>("adopt", true);
    request.foreign_manager = options.take<bool>("foreign-manager", false);
    request.nvram = options.take<std::vector<std::string>>("nvram", std::vector<std::string>());
    options.finish();
    if (!request.nvram.empty()) request.owner_uid = co_await call.sender_uid();
    const Uuid vm = co_await storage::register_vm(engine_, std::move(request));
    co_return object_path(ObjectKind::vm, vm);
}

async::Task<bus::ObjectPath> ManagerObject::create_schedule(bus::Call call, std::string name,
                                                            bus::ObjectPath vm, std::string calendar,
                                                            bus::Options options) {
    const Uuid vm_id = id_in(vm, ObjectKind::vm, "vm");
    auto more = take_schedule_options(options);
    options.finish();
    const uid_t owner = co_await call.sender_uid();
    storage::Scheduler::Edit edit = [=](storage::ScheduleRecord& schedule) {
        schedule.name = name;
        schedule.calendar = calendar;
        schedule.owner_uid = owner;
        more(schedule);
    };
    const Uuid schedule = co_await storage::create_schedule(engine_, vm_id, std::move(edit));
    co_return object_path(ObjectKind::schedule, schedule);
}

async::Task<bus::ObjectPath> ManagerObject::import_manifest(bus::Call, std::string path,
                                                            bus::Options options) {
    storage::ManifestRequest request(std::move(path));
    request.name = options.take<std::string>("name", "");
    using Paths = std::map<std::string, std::string>;
    request.pools = options.take<Paths>("pools", Paths());
    request.ignore_newer = options.take<bool>("ignore-newer", false);
    options.finish();
    const Uuid vm = co_await storage::import_manifest(engine_, std::move(request));
    co_return object_path(ObjectKind::vm, vm);
}

async::Task<bus::ObjectPath> ManagerObject::restore_disk(bus::Call call, std::string name,
                                                         bus::ObjectPath pool, std::uint64_t size,
                                                         bus::Options options) {
    const Uuid pool_id = id_in(pool, ObjectKind::pool, "pool");
    storage::RestoreRequest request(pool_id, std::move(name), size);
    request.image = take_image_options(options, size);
    request.shown = co_await take_nbd_request(bus_, call, options);
    options.finish();
    request.shown.writable = true;
    const Uuid job = co_await storage::restore_disk(engine_, std::move(request));
    co_return object_path(ObjectKind::job, job);
}

async::Task<bus::ObjectPath> ManagerObject::find(bus::Call, std::string kind, std::string what) {
    const auto known = from_word<ObjectKind>(kind);
    if (!known)
        throw Error(ErrorCode::invalid_argument, "argument 'kind': {} is not one of {}", quote(kind),
                    all_words<ObjectKind>());
    co_return object_path(*known, find_object(engine_.catalog(), *known, what));
}

std::string ManagerObject::version() const {
    return VOLCHAIN_VERSION;
}

std::vector<std::string> ManagerObject::features() const {
    std::vector<std::string> features{"pools",     "overlays", "snapshots", "previews",  "merges",
                                      "checks",    "moves",    "profiles",  "schedules", "snapshot-xml",
                                      "manifests", "backups",  "memory",    "nvram"};
    if (!qemu_version_.empty())
        features.insert(features.end(), {"clones", "exports", "restores", "storage-daemon"});
    return features;
}

async::Task<> ManagerObject::probe_qemu() {
    try {
        qemu_version_ = co_await storage::probe_storage_daemon(engine_);
    } catch (const Error& error) {
        log().warning("qemu-storage-daemon cannot be used, and offline work on images not be done: {}",
                      error.what());
    }
}

}  // namespace volchain::daemon
