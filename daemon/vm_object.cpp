// SPDX-License-Identifier: MIT
#include "daemon/vm_object.h"

#include "daemon/bound_exports.h"
#include "daemon/schedule_object.h"
#include "storage/backups/start_backup.h"
#include "storage/checkpoints/checkpoints.h"
#include "storage/checkpoints/delete_checkpoint.h"
#include "storage/documents/snapshot_documents.h"
#include "storage/memory/load_memory.h"
#include "storage/memory/resume_state.h"
#include "storage/previews/end_preview.h"
#include "storage/previews/preview.h"
#include "storage/snapshots/create_snapshot.h"
#include "storage/vms/launch_arguments.h"
#include "storage/vms/vms.h"

namespace volchain::daemon {

using storage::ObjectKind;

bus::Interface<VmObject> VmObject::table() {
    bus::Interface<VmObject> table(interface_name(ObjectKind::vm), *this);
    table.method<&VmObject::create_snapshot>("CreateSnapshot", bus::in("name", "options"), bus::out("job"))
        .method<&VmObject::preview>("Preview", bus::in("disks", "options"), bus::out("job"))
        .method<&VmObject::commit_preview>("CommitPreview", bus::in("options"), bus::out("job"))
        .method<&VmObject::undo_preview>("UndoPreview", bus::in("options"), bus::out("job"))
        .method<&VmObject::start_backup>("StartBackup", bus::in("options"), bus::out("job"))
        .method<&VmObject::delete_checkpoint>("DeleteCheckpoint", bus::in("name", "options"), bus::out("job"))
        .method<&VmObject::launch_arguments>("LaunchArguments", bus::in("options"), bus::out("arguments"))
        .method<&VmObject::get_config>("GetConfig", bus::in(), bus::out("config", "type"))
        .method<&VmObject::set_config>("SetConfig", bus::in("config", "type"), bus::out())
        .method<&VmObject::import_snapshot_xml>("ImportSnapshotXML", bus::in("xml", "options"),
                                                bus::out("snapshot"))
        .method<&VmObject::save_profile>("SaveProfile", bus::in("name", "options"), bus::out())
        .method<&VmObject::delete_profile>("DeleteProfile", bus::in("name"), bus::out())
        .method<&VmObject::update>("Update", bus::in("options"), bus::out())
        .method<&VmObject::refresh>("Refresh", bus::in(), bus::out())
        .method<&VmObject::unregister>("Unregister", bus::in("options"), bus::out())
        .property<&VmObject::id>("Id", bus::Change::never)
        .property<&VmObject::name>("Name", bus::Change::signalled)
        .property<&VmObject::state>("State", bus::Change::signalled)
        .property<&VmObject::agent_state>("AgentState", bus::Change::signalled)
        .property<&VmObject::qmp_socket>("QmpSocket", bus::Change::signalled)
        .property<&VmObject::agent_socket>("AgentSocket", bus::Change::signalled)
        .property<&VmObject::disks>("Disks", bus::Change::signalled)
        .property<&VmObject::snapshots>("Snapshots", bus::Change::signalled)
        .property<&VmObject::current_snapshot>("CurrentSnapshot", bus::Change::signalled)
        .property<&VmObject::preview_of>("PreviewOf", bus::Change::signalled)
        .property<&VmObject::resumes_from>("ResumesFrom", bus::Change::signalled)
        .property<&VmObject::nvram>("Nvram", bus::Change::signalled)
        .property<&VmObject::job>("Job", bus::Change::signalled)
        .property<&VmObject::config_type>("ConfigType", bus::Change::signalled)
        .property<&VmObject::checkpoints>("Checkpoints", bus::Change::signalled)
        .property<&VmObject::checkpoint_problems>("CheckpointProblems", bus::Change::signalled)
        .property<&VmObject::profiles>("Profiles", bus::Change::signalled)
        .property<&VmObject::schedules>("Schedules", bus::Change::signalled)
        .property<&VmObject::unmanaged>("Unmanaged", bus::Change::signalled);
    return table;
}

async::Task<bus::ObjectPath> VmObject::create_snapshot(bus::Call call, Uuid id, std::string name,
                                                       bus::Options options) {
    storage::SnapshotRequest request(id, std::move(name));
    const auto wanted = take_snapshot_options(options);
    request.checkpoint = options.take<std::string>("checkpoint", "");
    options.finish();
    storage::apply_snapshot_options(engine_.catalog(), wanted, request);
    request.owner_uid = co_await call.sender_uid();
    const Uuid job = co_await storage::create_snapshot(engine_, std::move(request));
    co_return object_path(ObjectKind::job, job);
}

async::Task<bus::ObjectPath> VmObject::preview(bus::Call call, Uuid id,
                                               std::map<bus::ObjectPath, bus::ObjectPath> disks,
                                               bus::Options options) {
    storage::PreviewRequest request(id);
    for (const auto& [disk, snapshot] : disks)
        request.disks.emplace(id_in(disk, ObjectKind::disk, "disks"),
                              id_in(snapshot, ObjectKind::snapshot, "disks"));
    request.config_from = take_id(options, "config-from", ObjectKind::snapshot).value_or(Uuid{});
    request.memory = options.take<bool>("memory");
    options.finish();
    request.owner_uid = co_await call.sender_uid();
    const Uuid job = co_await storage::preview(engine_, std::move(request));
    co_return object_path(ObjectKind::job, job);
}

async::Task<bus::ObjectPath> VmObject::commit_preview(bus::Call call, Uuid id, bus::Options options) {
    const bool keep_branch = options.take<bool>("keep-branch", false);
    options.finish();
    const uid_t owner = co_await call.sender_uid();
    const Uuid job = co_await storage::commit_preview(engine_, id, keep_branch, owner);
    co_return object_path(ObjectKind::job, job);
}

async::Task<bus::ObjectPath> VmObject::undo_preview(bus::Call call, Uuid id, bus::Options options) {
    options.finish();
    const uid_t owner = co_await call.sender_uid();
    const Uuid job = co_await storage::undo_preview(engine_, id, owner);
    co_return object_path(ObjectKind::job, job);
}

/// None for pull mode.
std::optional<storage::PushTarget> VmObject::take_push_target(bus::Options& options) const {
    const std::string mode = options.take<std::string>("mode", "pull");
    const std::string directory = options.take<std::string>("target", "");
    const auto pool = take_id(options, "target-pool", ObjectKind::pool);
    const bool compress = options.take<bool>("compress", false);
    if (mode != "pull" && mode != "push")
        throw Error(ErrorCode::invalid_argument, "option 'mode': {} is not one of pull, push", quote(mode));
    if (mode == "pull" && (!directory.empty() || pool || compress))
        throw Error(ErrorCode::invalid_argument,
                    "options 'target', 'target-pool' and 'compress' are for mode push");
    if (mode == "pull") return std::nullopt;
    if (directory.empty() == !pool)
        throw Error(ErrorCode::invalid_argument,
                    "mode push needs one of the options 'target', a directory, and 'target-pool'");
    storage::PushTarget target(pool ? engine_.catalog().pool(*pool).path : directory);
    target.compress = compress;
    return target;
}

async::Task<bus::ObjectPath> VmObject::start_backup(bus::Call call, Uuid id, bus::Options options) {
    storage::BackupRequest request(id, 0);
    request.kind = take_word<storage::BackupKind>(options, "kind").value_or(request.kind);
    request.since = options.take<std::string>("since", "");
    request.disks = take_ids(options, "disks", ObjectKind::disk);
    request.snapshot = take_id(options, "snapshot", ObjectKind::snapshot).value_or(Uuid{});
    request.quiesce = take_word<storage::QuiesceMode>(options, "quiesce");
    request.freeze_timeout = take_timeout(options, "freeze-timeout-usec");
    request.checkpoint = options.take<std::string>("checkpoint", "");
    request.require_incremental = options.take<bool>("require-incremental", false);
    request.allowed_uid = options.take<std::uint32_t>("allow-uid");
    const bool bound = options.take<bool>("bind-to-caller", false);
    request.push = take_push_target(options);
    request.speed = options.take<std::uint64_t>("speed", 0);
    options.finish();
    request.owner_uid = co_await call.sender_uid();
    if (bound) request.caller = caller_mark(bus_, call.sender());
    const Uuid job = co_await storage::start_backup(engine_, std::move(request));
    co_return object_path(ObjectKind::job, job);
}

async::Task<bus::ObjectPath> VmObject::delete_checkpoint(bus::Call call, Uuid id, std::string name,
                                                         bus::Options options) {
    options.finish();
    const uid_t owner = co_await call.sender_uid();
    const Uuid job = co_await storage::delete_checkpoint(engine_, id, std::move(name), owner);
    co_return object_path(ObjectKind::job, job);
}

async::Task<std::vector<std::string>> VmObject::launch_arguments(bus::Call, Uuid id, bus::Options options) {
    std::string device = options.take<std::string>("device", "");
    const auto memory = options.take<bool>("memory");
    options.finish();
    co_return co_await storage::launch_arguments(engine_, id, std::move(device), memory);
}

async::Task<std::tuple<Bytes, std::string>> VmObject::get_config(bus::Call, Uuid id) {
    const storage::VmRecord& vm = engine_.catalog().vm(id);
    co_return std::make_tuple(to_bytes(vm.config), vm.config_type);
}

async::Task<> VmObject::set_config(bus::Call, Uuid id, Bytes config, std::string type) {
    co_await storage::set_vm_config(engine_, id, to_text(config), std::move(type));
}

async::Task<> VmObject::save_profile(bus::Call, Uuid id, std::string name, bus::Options options) {
    auto saved = take_snapshot_options(options);
    options.finish();
    co_await storage::save_profile(engine_, id, std::move(name), std::move(saved));
}

async::Task<> VmObject::delete_profile(bus::Call, Uuid id, std::string name) {
    co_await storage::delete_profile(engine_, id, std::move(name));
}

async::Task<> VmObject::update(bus::Call call, Uuid id, bus::Options options) {
    storage::VmUpdate update;
    update.name = options.take<std::string>("name");
    update.qmp_socket = options.take<std::string>("qmp-socket");
    update.agent_socket = options.take<std::string>("agent-socket");
    update.nvram = options.take<std::vector<std::string>>("nvram");
    const bool discard_memory = options.take<bool>("discard-memory", false);
    options.finish();
    if (update.nvram) update.owner_uid = co_await call.sender_uid();
    if (discard_memory) co_await storage::discard_due_memory(engine_, id);
    co_await storage::update_vm(engine_, id, std::move(update));
}

async::Task<bus::ObjectPath> VmObject::import_snapshot_xml(bus::Call, Uuid id, std::string xml,
                                                           bus::Options options) {
    const auto current = options.take<bool>("current");
    options.finish();
    const Uuid snapshot = co_await storage::import_snapshot_document(engine_, id, std::move(xml), current);
    co_return object_path(ObjectKind::snapshot, snapshot);
}

async::Task<> VmObject::refresh(bus::Call, Uuid id) {
    co_await storage::refresh_vm(engine_, id);
}

async::Task<> VmObject::unregister(bus::Call, Uuid id, bus::Options options) {
    const bool forget_snapshots = options.take<bool>("forget-snapshots", false);
    options.finish();
    co_await storage::unregister_vm(engine_, id, forget_snapshots);
}

std::string VmObject::name(Uuid id) const {
    return engine_.catalog().vm(id).name;
}
std::string VmObject::state(Uuid id) const {
    return std::string(word(engine_.vm(id).state()));
}
std::string VmObject::agent_state(Uuid id) const {
    return std::string(word(engine_.vm(id).agent_state()));
}
std::string VmObject::qmp_socket(Uuid id) const {
    return engine_.catalog().vm(id).qmp_socket;
}
std::string VmObject::agent_socket(Uuid id) const {
    return engine_.catalog().vm(id).agent_socket;
}

std::vector<bus::ObjectPath> VmObject::disks(Uuid id) const {
    return object_paths(ObjectKind::disk, engine_.catalog().disks_of_vm(id));
}

std::vector<bus::ObjectPath> VmObject::snapshots(Uuid id) const {
    return object_paths(ObjectKind::snapshot, engine_.catalog().snapshots_of_vm(id));
}

bus::ObjectPath VmObject::current_snapshot(Uuid id) const {
    return object_path(ObjectKind::snapshot, engine_.catalog().vm(id).current_snapshot);
}

bus::ObjectPath VmObject::preview_of(Uuid id) const {
    const auto& preview = engine_.catalog().vm(id).preview;
    return object_path(ObjectKind::snapshot, preview ? preview->snapshot : Uuid{});
}

bus::ObjectPath VmObject::resumes_from(Uuid id) const {
    const storage::SnapshotRecord* const due = storage::due_memory(engine_.catalog(), id);
    return object_path(ObjectKind::snapshot, due == nullptr ? Uuid{} : due->id);
}

std::vector<std::string> VmObject::nvram(Uuid id) const {
    std::vector<std::string> paths;
    for (const storage::NvramStore& store : engine_.catalog().vm(id).nvram) paths.push_back(store.path);
    return paths;
}

bus::ObjectPath VmObject::job(Uuid id) const {
    return object_path(ObjectKind::job, engine_.locks().job_holding({ObjectKind::vm, id}));
}

std::string VmObject::config_type(Uuid id) const {
    return engine_.catalog().vm(id).config_type;
}

std::vector<CheckpointRow> VmObject::checkpoints(Uuid id) const {
    std::vector<CheckpointRow> all;
    for (const storage::Checkpoint& checkpoint : storage::checkpoints_of(engine_, id))
        all.emplace_back(checkpoint.name.name, to_usec(checkpoint.name.time),
                         std::string(word(checkpoint.state)));
    return all;
}

std::vector<CheckpointFlaw> VmObject::checkpoint_problems(Uuid id) const {
    std::vector<CheckpointFlaw> all;
    for (const storage::Checkpoint& checkpoint : storage::checkpoints_of(engine_, id))
        for (const auto& [disk, why] : checkpoint.flaws)
            all.emplace_back(checkpoint.name.name, object_path(ObjectKind::disk, disk), why);
    return all;
}

std::map<std::string, bus::Dict> VmObject::profiles(Uuid id) const {
    std::map<std::string, bus::Dict> all;
    for (const auto& [name, options] : engine_.catalog().vm(id).profiles.items())
        all.emplace(name, snapshot_options_dict(options));
    return all;
}

std::vector<bus::ObjectPath> VmObject::schedules(Uuid id) const {
    return object_paths(ObjectKind::schedule, engine_.catalog().schedules_of_vm(id));
}

std::vector<TextPair> VmObject::unmanaged(Uuid id) const {
    std::vector<TextPair> all;
    for (const auto& [device, why] : engine_.unmanaged(id)) all.emplace_back(device, why);
    return all;
}

}  // namespace volchain::daemon
