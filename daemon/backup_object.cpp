// SPDX-License-Identifier: MIT
#include "daemon/backup_object.h"

#include "storage/backups/end_backup.h"
#include "storage/checkpoints/checkpoints.h"

namespace volchain::daemon {

using storage::ObjectKind;

namespace {

/// What people call the checkpoint of a bitmap; empty for none.
std::string checkpoint_of(const std::string& bitmap) {
    const auto checkpoint = storage::CheckpointName::of_bitmap(bitmap);
    return checkpoint ? checkpoint->name : std::string();
}

}  // namespace

bus::Interface<BackupObject> BackupObject::table() {
    bus::Interface<BackupObject> table(interface_name(ObjectKind::backup), *this);
    table.method<&BackupObject::finish>("Finish", bus::in("options"), bus::out("job"))
        .method<&BackupObject::abort>("Abort", bus::in(), bus::out("job"))
        .method<&BackupObject::get_config>("GetConfig", bus::in(), bus::out("config", "type"))
        .property<&BackupObject::id>("Id", bus::Change::never)
        .property<&BackupObject::vm>("VM", bus::Change::never)
        .property<&BackupObject::kind>("Kind", bus::Change::never)
        .property<&BackupObject::source>("Source", bus::Change::never)
        .property<&BackupObject::snapshot>("Snapshot", bus::Change::never)
        .property<&BackupObject::mode>("Mode", bus::Change::never)
        .property<&BackupObject::state>("State", bus::Change::signalled)
        .property<&BackupObject::problem>("Problem", bus::Change::signalled)
        .property<&BackupObject::consistency>("Consistency", bus::Change::signalled)
        .property<&BackupObject::checkpoint>("Checkpoint", bus::Change::never)
        .property<&BackupObject::since>("Since", bus::Change::never)
        .property<&BackupObject::exports>("Exports", bus::Change::signalled)
        .property<&BackupObject::disks>("Disks", bus::Change::never)
        .property<&BackupObject::disk_name>("DiskName", bus::Change::never)
        .property<&BackupObject::owner>("OwnerUid", bus::Change::never)
        .property<&BackupObject::created>("CreatedUsec", bus::Change::never)
        .property<&BackupObject::moment>("MomentUsec", bus::Change::signalled);
    return table;
}

async::Task<bus::ObjectPath> BackupObject::finish(bus::Call call, Uuid id, bus::Options options) {
    options.finish();
    const uid_t owner = co_await call.sender_uid();
    const Uuid job = co_await storage::finish_backup(engine_, id, owner);
    co_return object_path(ObjectKind::job, job);
}

async::Task<bus::ObjectPath> BackupObject::abort(bus::Call call, Uuid id) {
    const uid_t owner = co_await call.sender_uid();
    const Uuid job = co_await storage::abort_backup(engine_, id, owner);
    co_return object_path(ObjectKind::job, job);
}

async::Task<std::tuple<Bytes, std::string>> BackupObject::get_config(bus::Call, Uuid id) {
    co_return std::make_tuple(to_bytes(record(id).config), record(id).config_type);
}

bus::ObjectPath BackupObject::vm(Uuid id) const {
    return object_path(ObjectKind::vm, record(id).vm);
}
std::string BackupObject::kind(Uuid id) const {
    return restores(id) ? "restore" : std::string(word(record(id).kind));
}
std::string BackupObject::source(Uuid id) const {
    return restores(id) ? std::string() : std::string(word(record(id).source));
}
bus::ObjectPath BackupObject::snapshot(Uuid id) const {
    return object_path(ObjectKind::snapshot, record(id).snapshot);
}
std::string BackupObject::mode(Uuid id) const {
    if (restores(id)) return "fill";
    return pushed(id) ? "push" : "pull";
}
std::string BackupObject::state(Uuid id) const {
    if (pushed(id) && record(id).state == storage::BackupState::starting) return "running";
    return std::string(word(record(id).state));
}
std::string BackupObject::problem(Uuid id) const {
    return record(id).problem;
}
std::string BackupObject::consistency(Uuid id) const {
    return restores(id) ? std::string() : std::string(word(record(id).consistency));
}
std::string BackupObject::checkpoint(Uuid id) const {
    return checkpoint_of(record(id).checkpoint);
}
std::string BackupObject::since(Uuid id) const {
    return checkpoint_of(record(id).since);
}

/// Those that show something: some are recorded before they do.
std::vector<bus::ObjectPath> BackupObject::exports(Uuid id) const {
    const auto& all = engine_.catalog().exports();
    const auto is_shown = [&](const Uuid& exported) {
        const auto found = all.find(exported);
        return found != all.end() && found->second.state == storage::ExportState::ready;
    };
    std::vector<Uuid> shown;
    for (const storage::BackupDisk& disk : record(id).disks)
        if (is_shown(disk.exported)) shown.push_back(disk.exported);
    if (restores(id))
        for (const auto& [exported, part] : all)
            if (part.backup == id && is_shown(exported)) shown.push_back(exported);
    return object_paths(ObjectKind::exported, shown);
}

std::vector<BackedUpDisk> BackupObject::disks(Uuid id) const {
    std::vector<BackedUpDisk> all;
    for (const storage::BackupDisk& disk : record(id).disks)
        all.emplace_back(object_path(ObjectKind::disk, disk.disk), disk.incremental ? "incremental" : "full",
                         disk.why);
    return all;
}

std::string BackupObject::disk_name(Uuid id) const {
    return restores(id) ? record(id).restored->name : std::string();
}
std::uint32_t BackupObject::owner(Uuid id) const {
    return record(id).owner_uid;
}
std::uint64_t BackupObject::created(Uuid id) const {
    return to_usec(record(id).created);
}
std::uint64_t BackupObject::moment(Uuid id) const {
    return to_usec(record(id).moment);
}

}  // namespace volchain::daemon
