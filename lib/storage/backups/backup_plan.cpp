// SPDX-License-Identifier: MIT
#include "storage/backups/backup_plan.h"

#include <algorithm>

#include "base/text.h"
#include "qmp/schema.h"
#include "storage/checkpoints/checkpoints.h"
#include "storage/checkpoints/export_bitmap.h"
#include "storage/exports/export_device.h"
#include "storage/jobs/presence.h"
#include "storage/volumes/overlays.h"

namespace volchain::storage {
namespace {

// --- of all backups ----------------------------------------------------------------------------------------

BackupRecord new_backup(const Engine& engine, const BackupRequest& request) {
    BackupRecord record;
    record.id = Uuid::make();
    record.vm = request.vm;
    record.kind = request.kind;
    record.state = BackupState::starting;
    record.checkpoint = new_bitmap(engine, request);
    record.since = bitmap_since(engine, request);
    record.created = now();
    record.owner_uid = request.owner_uid;
    record.allowed_uid = request.allowed_uid;
    record.caller = request.caller;
    record.config = engine.catalog().vm(request.vm).config;
    record.config_type = engine.catalog().vm(request.vm).config_type;
    return record;
}

/// `layers`: of the disk, the topmost first, with their bitmaps.
void judge(const Catalog& catalog, const std::vector<const qmp::Node*>& layers, const BackupRecord& record,
           BackupDisk& part) {
    const VolumeFacts& facts = catalog.facts(part.volume);
    const bool holds = facts.header && facts.header->version >= 3;
    part.tracked = holds && !record.checkpoint.empty();
    if (record.kind == BackupKind::full) return;
    if (record.since.empty()) {
        part.why = "there is no checkpoint";
        return;
    }
    const Recording recording = recording_in(layers, record.since);
    part.incremental = recording.flaw.empty();
    part.why = recording.flaw;
    if (!recording.known && !holds) part.why = "its image is of a kind that holds no bitmaps";
}

// --- of running VMs ----------------------------------------------------------------------------------------

/// A text property of an object; empty where it has none.
async::Task<std::string> text_property(std::shared_ptr<qmp::Session> session, std::string path,
                                       std::string property, async::Deadline deadline) {
    Json arguments{{"path", std::move(path)}, {"property", std::move(property)}};
    Json value;
    try {
        value = co_await session->execute("qom-get", std::move(arguments), deadline);
    } catch (const qmp::CommandError&) {
    }
    co_return value.is_string() ? value.get<std::string>() : std::string();
}

/// Of its own, or as the controller does whose bus it is on.
async::Task<bool> runs_in_iothread(std::shared_ptr<qmp::Session> session, std::string device,
                                   async::Deadline deadline) {
    const std::string own = co_await text_property(session, device, "iothread", deadline);
    if (!own.empty()) co_return true;
    const std::string bus = co_await text_property(session, device, "parent_bus", deadline);
    const std::size_t slash = bus.rfind('/');
    if (slash == std::string::npos) co_return false;
    std::string controller = bus.substr(0, slash);
    const std::string of_controller =
        co_await text_property(session, std::move(controller), "iothread", deadline);
    co_return !of_controller.empty();
}

class RunningPlanner {
  public:
    RunningPlanner(Engine& engine, const BackupRequest& request)
        : engine_(engine), request_(request), session_(engine.vm(request.vm).session()) {}

    async::Task<BackupRecord> plan() {
        graph_ = co_await qmp::read_block_graph(session_, soon());
        BackupRecord record = new_backup(engine_, request_);
        record.source = BackupSource::running;
        record.qemu = appliance_process(engine_, request_.vm).mark;
        for (const WantedDisk& wanted : disks_to_back_up(catalog(), request_)) {
            BackupDisk part = co_await plan_disk(wanted.disk);
            judge(catalog(), graph_.chain(part.layer), record, part);
            record.disks.push_back(std::move(part));
        }
        co_return record;
    }

  private:
    [[nodiscard]] const Catalog& catalog() const { return engine_.catalog(); }
    [[nodiscard]] async::Deadline soon() const { return async::after(engine_.settings().command_timeout); }

    async::Task<BackupDisk> plan_disk(Uuid id) {
        const DiskRecord& disk = catalog().disk(id);
        const std::string name = catalog().describe({ObjectKind::disk, id});
        if (const auto refusal = not_to_be_covered(disk)) throw refusal->during(name);
        BackupDisk part;
        part.disk = id;
        part.volume = disk.active;
        part.layer = live_disk(engine_, id).active().node;
        if (!request_.push) part.exported = Uuid::make();
        const auto devices = graph_.devices_on(part.layer);
        if (devices.size() != 1)
            throw Error(ErrorCode::unsupported, "{}: {} devices of the VM stand on it", name, devices.size());
        part.root = devices.front()->root;
        const std::string& path = devices.front()->path;
        part.device = path.starts_with('/') ? path : "/machine/peripheral/" + path;
        const bool crashes = !request_.push && co_await crashes_nbd_server(part.device);
        if (crashes)
            throw Error(ErrorCode::unsupported,
                        "{}: its device runs in an iothread, and the NBD server of this QEMU would crash the "
                        "VM; back it up in push mode, or take a snapshot, and export that",
                        name);
        co_return part;
    }

    /// A QEMU whose NBD server works with iothreads is known by an argument that came later (QEMU 10.0).
    async::Task<bool> crashes_nbd_server(std::string device) {
        const bool threaded = co_await runs_in_iothread(session_, std::move(device), soon());
        if (!threaded) co_return false;
        const auto schema = co_await session_->schema(soon());
        co_return !schema->command_has_argument({"nbd-server-start", "handshake-max-seconds"});
    }

    Engine& engine_;
    const BackupRequest& request_;
    std::shared_ptr<qmp::Session> session_;
    qmp::BlockGraph graph_;
};

}  // namespace

async::Task<BackupRecord> plan_running_backup(Engine& engine, BackupRequest request) {
    RunningPlanner planner(engine, request);
    co_return co_await planner.plan();
}

BackupRecord plan_stored_backup(const Engine& engine, const BackupRequest& request) {
    const Catalog& catalog = engine.catalog();
    BackupRecord record = new_backup(engine, request);
    record.source = request.snapshot ? BackupSource::snapshot : BackupSource::down;
    record.snapshot = request.snapshot;
    record.consistency = Consistency::offline;
    if (request.snapshot) {
        const SnapshotRecord& snapshot = catalog.snapshot(request.snapshot);
        record.consistency = snapshot.consistency;
        record.moment = snapshot.created;
        record.config = snapshot.config;
        record.config_type = snapshot.config_type;
    }
    for (const WantedDisk& wanted : disks_to_back_up(catalog, request)) {
        if (request.snapshot.nil())
            if (const auto refusal = not_to_be_covered(catalog.disk(wanted.disk)))
                throw refusal->during(catalog.describe({ObjectKind::disk, wanted.disk}));
        BackupDisk part;
        part.disk = wanted.disk;
        part.volume = wanted.volume;
        if (!request.push) part.exported = Uuid::make();
        const std::vector<qmp::Node> layers = layers_as_seen(engine, part.disk, part.volume);
        std::vector<const qmp::Node*> pointers;
        for (const qmp::Node& layer : layers) pointers.push_back(&layer);
        judge(catalog, pointers, record, part);
        record.disks.push_back(std::move(part));
    }
    return record;
}

void check_plan(const Catalog& catalog, const BackupRequest& request, const BackupRecord& record) {
    const auto tracked = [](const BackupDisk& part) { return part.tracked; };
    if (!record.checkpoint.empty() && std::none_of(record.disks.begin(), record.disks.end(), tracked))
        throw Error(ErrorCode::unsupported,
                    "option 'checkpoint': no image of these disks can hold one; it takes qcow2 (compat 1.1)");
    if (!request.require_incremental) return;
    std::vector<std::string> full;
    for (const BackupDisk& part : record.disks)
        if (!part.incremental)
            full.push_back(catalog.describe({ObjectKind::disk, part.disk}) + ": " + part.why);
    if (!full.empty())
        throw Error(ErrorCode::unsupported,
                    "it would not be incremental, which is required; a full backup is needed of {}",
                    joined(full, "; "));
}

ExportRecord export_of_backup(const BackupRecord& backup, const BackupDisk& disk) {
    ExportRecord shown;
    shown.id = disk.exported;
    shown.kind = ExportKind::nbd;
    shown.volume = disk.volume;
    shown.disk = disk.disk;
    shown.snapshot = backup.snapshot;
    shown.owner_uid = backup.owner_uid;
    shown.allowed_uid = backup.allowed_uid;
    shown.backup = backup.id;
    return shown;
}

}  // namespace volchain::storage
