// SPDX-License-Identifier: MIT
#include "storage/vms/vms.h"

#include <sys/un.h>

#include <algorithm>
#include <filesystem>

#include "base/text.h"
#include "storage/checkpoints/checkpoints.h"
#include "storage/jobs/held_volumes.h"
#include "storage/records/preview_state.h"
#include "storage/vms/nvram.h"

namespace volchain::storage {
namespace {

/// The largest configuration that is kept: a document, not a disk.
constexpr std::size_t max_config = std::size_t{4} << 20;

void check_socket(std::string_view option, const std::string& path) {
    if (path.empty()) return;
    const auto refuse = [&](std::string_view why) {
        throw Error(ErrorCode::invalid_argument, "option '{}': {} {}", option, quote(path), why);
    };
    if (!std::filesystem::path(path).is_absolute()) refuse("is not an absolute path");
    if (path.size() >= sizeof(sockaddr_un::sun_path)) refuse("is too long for a socket");
    for (const auto& part : std::filesystem::path(path))
        if (part == "..") refuse("contains '..'");
}

void check_config(const std::string& config, const std::string& type) {
    if (config.size() > max_config)
        throw Error(ErrorCode::invalid_argument, "the configuration is larger than {} bytes", max_config);
    const auto odd = [](unsigned char c) { return c < ' ' || c >= 0x7f; };
    // RFC 6838; parameters may follow. Empty: nobody said.
    if (type.size() > 255 || std::any_of(type.begin(), type.end(), odd))
        throw Error(ErrorCode::invalid_argument, "{} is not a MIME type", quote(type));
}

void check_unique(const Catalog& catalog, const VmRecord& vm) {
    catalog.check_vm_name_free(vm.name, vm.id);
    for (const auto& [id, other] : catalog.vms()) {
        if (id == vm.id) continue;
        if (!vm.qmp_socket.empty() && other.qmp_socket == vm.qmp_socket)
            throw Error(ErrorCode::already_exists, "{} has the QMP socket {} already",
                        catalog.describe({ObjectKind::vm, id}), quote(vm.qmp_socket));
    }
}

/// What is a volume is in snapshots as a disk.
void check_stores_are_no_volumes(const Catalog& catalog, const std::vector<NvramStore>& stores) {
    for (const NvramStore& store : stores)
        if (const VolumeRecord* const volume = catalog.find_volume(store.path))
            throw Error(
                ErrorCode::already_exists,
                "option 'nvram': {} is a volume of {} already; detach that disk from its VM, and remove its "
                "pool or import it elsewhere, so that it is forgotten",
                quote(store.path), catalog.describe({ObjectKind::disk, volume->disk}));
}

async::Task<std::vector<NvramStore>> look_at_stores(Engine& engine, std::vector<std::string> paths,
                                                    std::uint32_t uid) {
    if (paths.empty()) co_return std::vector<NvramStore>();
    auto work = [paths = std::move(paths), uid] { return named_stores(paths, UserRights::of(uid)); };
    std::vector<NvramStore> stores = co_await engine.files().run(std::move(work));
    check_stores_are_no_volumes(engine.catalog(), stores);
    co_return stores;
}

/// Two clients of one monitor, or two managers of one VM, do not go together.
void check_monitor(const Vm& vm, const VmRecord& record) {
    vm.check_manager(record);
    if (!vm.live() && vm.state() == VmState::unreachable) (void)vm.session();  // throws, and says why
}

VmRecord new_record(VmRequest request) {
    VmRecord record;
    record.id = request.id.value_or(Uuid::make());
    record.name = std::move(request.name);
    record.qmp_socket = std::move(request.qmp_socket);
    record.agent_socket = std::move(request.agent_socket);
    record.config = std::move(request.config);
    record.config_type = std::move(request.config_type);
    record.adopt = request.adopt;
    record.foreign_manager = request.foreign_manager;
    return record;
}

/// The first look at a new VM, and its record; on failure the caller lets go of it again.
async::Task<> take_in(Engine& engine, VmRecord record) {
    engine.attend(record).start();
    co_await engine.vm(record.id).look_now(
        async::after(engine.settings().greeting_timeout * 2 + engine.settings().command_timeout));
    check_monitor(engine.vm(record.id), record);
    check_unique(engine.catalog(), record);
    Changes changes;
    changes.put(record).put(ManifestStale{record.id, true});
    co_await engine.catalog().commit(std::move(changes), Durability::power);
    if (engine.vm(record.id).live()) co_await engine.adopt_disks(record.id);
}

/// Who knows a guest to be frozen needs both sockets: to thaw it, and to see that it is gone.
void check_sockets_stay(const Catalog& catalog, const VmRecord& record, const VmRecord& before) {
    const bool emptied = (record.qmp_socket.empty() && !before.qmp_socket.empty()) ||
                         (record.agent_socket.empty() && !before.agent_socket.empty());
    if (emptied && catalog.frozen_since(record.id))
        throw Error(ErrorCode::busy,
                    "{}: its guest may be frozen by a snapshot, and could not be thawed without its sockets; "
                    "try again when it was thawed",
                    catalog.describe({ObjectKind::vm, record.id}));
}

/// Nobody would thaw a guest of a VM that is forgotten.
async::Task<> require_thawed(Engine& engine, Uuid vm) {
    try {
        co_await engine.wait_thawed(vm, async::after(engine.settings().thaw_timeout));
    } catch (const Error& error) {
        if (error.code() != ErrorCode::timeout) throw;
        throw Error(ErrorCode::busy,
                    "{}: its guest may still be frozen by a snapshot, and its agent does not answer to the "
                    "thaw; start "
                    "the agent again, or reset or end the VM",
                    engine.catalog().describe({ObjectKind::vm, vm}));
    }
}

/// Nobody could tell whether the moment is still held, nor let it go.
void refuse_backed_up(const Catalog& catalog, const Uuid& vm) {
    for (const Uuid& disk : catalog.disks_of_vm(vm))
        if (const BackupRecord* backup = catalog.backup_of_disk(disk))
            throw Error(ErrorCode::busy, "{} is being backed up through its sockets; finish or abort {}",
                        catalog.describe({ObjectKind::vm, vm}),
                        catalog.describe({ObjectKind::backup, backup->id}));
}

/// What it shows of its snapshots, and what it is shown of others', would be known no more.
void refuse_exports(const Catalog& catalog, const Uuid& vm) {
    for (const Uuid& snapshot : catalog.snapshots_of_vm(vm)) check_snapshot_not_exported(catalog, snapshot);
    for (const auto& [id, record] : catalog.exports())
        if (record.appliance == vm)
            throw Error(ErrorCode::busy, "{} has a disk that is {}; stop that first",
                        catalog.describe({ObjectKind::vm, vm}), catalog.describe({ObjectKind::exported, id}));
}

}  // namespace

async::Task<> require_down(Engine& engine, Uuid vm, std::string_view what) {
    co_await engine.vm(vm).look_now(async::after(engine.settings().greeting_timeout * 2));
    if (engine.vm(vm).live())
        throw Error(ErrorCode::running, "{} is running: {} needs it down",
                    engine.catalog().describe({ObjectKind::vm, vm}), what);
    if (!engine.vm(vm).down()) (void)engine.vm(vm).session();  // throws Unreachable, and why
}

async::Task<Uuid> register_vm(Engine& engine, VmRequest request) {
    check_name("VM", request.name);
    check_socket("qmp-socket", request.qmp_socket);
    check_socket("agent-socket", request.agent_socket);
    check_config(request.config, request.config_type);
    std::vector<NvramStore> stores = co_await look_at_stores(engine, request.nvram, request.owner_uid);
    VmRecord record = new_record(std::move(request));
    record.nvram = std::move(stores);
    if (record.id.nil()) throw Error(ErrorCode::invalid_argument, "option 'id': the nil UUID is no id");
    if (engine.catalog().has({ObjectKind::vm, record.id}))
        throw Error(ErrorCode::already_exists, "there is a VM with the id {} already", record.id.str());
    check_unique(engine.catalog(), record);

    const auto held = engine.locks().take({{ObjectKind::vm, record.id}}, "being registered", Uuid{});
    std::exception_ptr failure;
    co_await async::keep_failure(take_in(engine, record), failure);
    if (failure) {
        const bool recorded = engine.catalog().has({ObjectKind::vm, record.id});
        if (!recorded) co_await engine.neglect(record.id);
        std::rethrow_exception(failure);
    }
    co_return record.id;
}

async::Task<> update_vm(Engine& engine, Uuid id, VmUpdate update) {
    // While a preview is shown, what its stores held before is kept for those that are named now.
    if (update.nvram) check_no_preview(engine.catalog(), id);
    std::vector<std::string> paths = update.nvram.value_or(std::vector<std::string>());
    std::vector<NvramStore> stores = co_await look_at_stores(engine, std::move(paths), update.owner_uid);
    VmRecord record = engine.catalog().vm(id);
    const auto held = engine.locks().take({{ObjectKind::vm, id}}, "being changed", Uuid{});
    if (update.nvram) record.nvram = std::move(stores);
    if (update.name) {
        check_name("VM", *update.name);
        record.name = *std::move(update.name);
    }
    const VmRecord before = record;
    if (update.qmp_socket) record.qmp_socket = *std::move(update.qmp_socket);
    if (update.agent_socket) record.agent_socket = *std::move(update.agent_socket);
    check_socket("qmp-socket", record.qmp_socket);
    check_socket("agent-socket", record.agent_socket);
    check_sockets_stay(engine.catalog(), record, before);
    check_unique(engine.catalog(), record);
    const bool same_sockets =
        record.qmp_socket == before.qmp_socket && record.agent_socket == before.agent_socket;
    if (!same_sockets) refuse_backed_up(engine.catalog(), id);
    Changes changes;
    changes.put(record).put(ManifestStale{id, true});
    co_await engine.catalog().commit(std::move(changes), Durability::power);
    engine.write_manifests();
    if (same_sockets) co_return;
    co_await engine.attend_anew(std::move(record));
}

async::Task<> set_vm_config(Engine& engine, Uuid id, std::string config, std::string type) {
    check_config(config, type);
    VmRecord record = engine.catalog().vm(id);
    const auto held = engine.locks().take({{ObjectKind::vm, id}}, "being changed", Uuid{});
    record.config = std::move(config);
    record.config_type = std::move(type);
    Changes changes;
    changes.put(std::move(record)).put(ManifestStale{id, true});
    co_await engine.catalog().commit(std::move(changes), Durability::power);
    engine.write_manifests();
}

async::Task<> refresh_vm(Engine& engine, Uuid id) {
    (void)engine.catalog().vm(id);
    const async::Deadline deadline =
        async::after(engine.settings().greeting_timeout * 2 + engine.settings().command_timeout);
    const ObjectId vm{ObjectKind::vm, id};
    const auto held = co_await engine.locks().take_when_seen_to(vm, "being looked at", deadline);
    (void)engine.catalog().vm(id);  // it may have gone meanwhile
    co_await engine.vm(id).look_now(deadline);
    co_await look_at_checkpoints(engine, id);
    if (!engine.vm(id).live()) co_return;
    co_await engine.vm(id).read_disks();
    co_await engine.adopt_disks(id);
    (void)co_await engine.vm(id).look_for_agent(deadline);
}

async::Task<> unregister_vm(Engine& engine, Uuid id, bool forget_snapshots) {
    const Catalog& catalog = engine.catalog();
    (void)catalog.vm(id);
    check_no_preview(catalog, id);
    co_await require_thawed(engine, id);
    check_no_preview(catalog, id);
    refuse_exports(catalog, id);
    std::vector<ObjectId> locks{{ObjectKind::vm, id}};
    Changes changes;
    for (const Uuid& disk_id : catalog.disks_of_vm(id)) {
        locks.push_back({ObjectKind::disk, disk_id});
        DiskRecord disk = catalog.disk(disk_id);
        disk.vm = Uuid{};
        changes.put(std::move(disk));
    }
    const auto snapshots = catalog.snapshots_of_vm(id);
    if (!snapshots.empty() && !forget_snapshots)
        throw Error(ErrorCode::in_use,
                    "{} has {} snapshot(s), which would be forgotten (their data stays); say "
                    "forget-snapshots=true if "
                    "that is wanted",
                    catalog.describe({ObjectKind::vm, id}), snapshots.size());
    const auto held = engine.locks().take(std::move(locks), "being unregistered", Uuid{});
    for (const Uuid& snapshot : snapshots) changes.remove(ObjectKind::snapshot, snapshot);
    for (const Uuid& schedule : catalog.schedules_of_vm(id)) changes.remove(ObjectKind::schedule, schedule);
    changes.put(Frozen{id, std::nullopt}).remove(ObjectKind::vm, id);
    co_await engine.schedules().commit(std::move(changes));
    co_await engine.neglect(id);
}

}  // namespace volchain::storage
