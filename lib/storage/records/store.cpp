// SPDX-License-Identifier: MIT
#include "storage/records/store.h"

#include "storage/records/schedule_settings.h"
#include "storage/records/schema.h"
#include "storage/records/snapshot_file.h"

namespace volchain::storage {
namespace {

// --- values and columns
// ----------------------------------------------------------------------------------------------

std::int64_t column(Timestamp time) {
    return static_cast<std::int64_t>(to_usec(time));
}

Statement& bind(Statement& statement, const Uuid& id) {
    return statement.bind(id.str());
}
Statement& bind_optional(Statement& statement, const Uuid& id) {
    return id.nil() ? statement.bind_null() : statement.bind(id.str());
}

[[noreturn]] void damaged(std::string_view what, const std::string& value) {
    throw Error(ErrorCode::internal, "state database: '{}' is not a {}", value, what);
}

Uuid uuid_at(const Statement& row, int index) {
    if (row.null(index)) return {};
    const std::string text = row.text(index);
    const auto id = Uuid::parse(text);
    if (!id) damaged("UUID", text);
    return *id;
}

template <typename E>
E word_at(const Statement& row, int index, std::string_view what) {
    const std::string text = row.text(index);
    const auto value = from_word<E>(text);
    if (!value) damaged(what, text);
    return *value;
}

Timestamp time_at(const Statement& row, int index) {
    return from_usec(static_cast<std::uint64_t>(row.number(index)));
}

Json json_at(const Statement& row, int index) {
    return parse_json(row.text(index), "state database", ErrorCode::internal);
}

// --- writing
// ---------------------------------------------------------------------------------------------------------

void write(Database& database, const PoolRecord& pool) {
    auto statement = database.prepare(
        "INSERT INTO pool VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET name=excluded.name, "
        "path=excluded.path");
    bind(statement, pool.id).bind(pool.name).bind(pool.path).run();
}

void write(Database& database, const DiskRecord& disk) {
    auto statement = database.prepare(
        "INSERT INTO disk VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET name=excluded.name, "
        "vm=excluded.vm, target=excluded.target, active=excluded.active, former=excluded.former, "
        "shareable=excluded.shareable, "
        "node_options=excluded.node_options");
    bind(statement, disk.id).bind(disk.name);
    bind_optional(statement, disk.vm).bind(disk.target);
    bind(statement, disk.active);
    bind_optional(statement, disk.former).bind(disk.shareable ? 1 : 0).bind(disk.node_options.dump()).run();
}

void write(Database& database, const VolumeRecord& volume) {
    auto statement = database.prepare(
        "INSERT INTO volume VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET disk=excluded.disk, "
        "pool=excluded.pool, file=excluded.file, format=excluded.format, created=excluded.created, "
        "mark=excluded.mark");
    bind(statement, volume.id);
    bind(statement, volume.disk);
    bind(statement, volume.pool)
        .bind(volume.file)
        .bind(word(volume.format))
        .bind(column(volume.created))
        .bind(word(volume.mark))
        .run();
    // Whoever makes a file a volume wants it.
    auto wanted = database.prepare(
        "DELETE FROM unwanted_file WHERE pool || '/' || file = (SELECT path || '/' || ? FROM pool WHERE "
        "id=?)");
    bind(wanted.bind(volume.file), volume.pool).run();
}

void write(Database& database, const VmRecord& vm) {
    auto statement = database.prepare(
        "INSERT INTO vm VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO "
        "UPDATE SET "
        "name=excluded.name, "
        "qmp_socket=excluded.qmp_socket, agent_socket=excluded.agent_socket, config=excluded.config, "
        "config_type=excluded.config_type, current_snapshot=excluded.current_snapshot, adopt=excluded.adopt, "
        "foreign_manager=excluded.foreign_manager, preview=excluded.preview, "
        "preview_with_config=excluded.preview_with_config, former_config=excluded.former_config, "
        "former_config_type=excluded.former_config_type, profiles=excluded.profiles, nvram=excluded.nvram, "
        "resumes_from=excluded.resumes_from, former_resumes_from=excluded.former_resumes_from, "
        "former_nvram=excluded.former_nvram");
    bind(statement, vm.id)
        .bind(vm.name)
        .bind(vm.qmp_socket)
        .bind(vm.agent_socket)
        .bind(vm.config)
        .bind(vm.config_type);
    bind_optional(statement, vm.current_snapshot).bind(vm.adopt ? 1 : 0).bind(vm.foreign_manager ? 1 : 0);
    if (vm.preview) {
        bind(statement, vm.preview->snapshot)
            .bind(vm.preview->with_config ? 1 : 0)
            .bind(vm.preview->former_config)
            .bind(vm.preview->former_config_type);
    } else {
        statement.bind_null().bind_null().bind_null().bind_null();
    }
    statement.bind(vm.profiles.dump()).bind(json_of(vm.nvram).dump());
    bind_optional(statement, vm.resumes_from);
    const PreviewRecord preview = vm.preview.value_or(PreviewRecord{});
    bind_optional(statement, preview.former_resumes_from).bind(json_of(preview.former_nvram).dump()).run();
}

void write_parts(Database& database, const SnapshotRecord& snapshot) {
    for (const char* table : {"snapshot_disk", "snapshot_excluded"}) {
        auto remove = database.prepare(fmt::format("DELETE FROM {} WHERE snapshot=?", table));
        bind(remove, snapshot.id).run();
    }
    for (const SnapshotDisk& part : snapshot.disks) {
        auto statement = database.prepare("INSERT INTO snapshot_disk VALUES (?, ?, ?)");
        bind(bind(bind(statement, snapshot.id), part.disk), part.volume).run();
    }
    for (std::size_t position = 0; position < snapshot.excluded.size(); ++position) {
        const ExcludedDisk& part = snapshot.excluded[position];
        auto statement = database.prepare("INSERT INTO snapshot_excluded VALUES (?, ?, ?, ?)");
        bind(statement, snapshot.id).bind(static_cast<std::int64_t>(position));
        bind_optional(statement, part.disk).bind(part.why).run();
    }
}

void write(Database& database, const SnapshotRecord& snapshot) {
    auto statement = database.prepare(
        "INSERT INTO snapshot VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE "
        "SET "
        "vm=excluded.vm, name=excluded.name, description=excluded.description, parent=excluded.parent, "
        "created=excluded.created, "
        "vm_state=excluded.vm_state, consistency=excluded.consistency, status=excluded.status, "
        "origin=excluded.origin, config=excluded.config, config_type=excluded.config_type, "
        "schedule=excluded.schedule, files=excluded.files");
    bind(statement, snapshot.id);
    bind_optional(statement, snapshot.vm).bind(snapshot.name).bind(snapshot.description);
    bind_optional(statement, snapshot.parent)
        .bind(column(snapshot.created))
        .bind(word(snapshot.vm_state))
        .bind(word(snapshot.consistency))
        .bind(word(snapshot.status))
        .bind(snapshot.origin)
        .bind(snapshot.config)
        .bind(snapshot.config_type);
    bind_optional(statement, snapshot.schedule).bind(json_of(snapshot.files).dump()).run();
    write_parts(database, snapshot);
}

Statement& bind(Statement& statement, const ProcessMark& process) {
    return statement.bind(static_cast<std::int64_t>(process.pid))
        .bind(static_cast<std::int64_t>(process.started));
}

void write(Database& database, const ExportRecord& record) {
    auto statement = database.prepare(
        "INSERT INTO export VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT "
        "(id) "
        "DO UPDATE SET state=excluded.state, expires=excluded.expires, address=excluded.address, "
        "bitmap=excluded.bitmap, server_pid=excluded.server_pid, server_started=excluded.server_started, "
        "mounter_pid=excluded.mounter_pid, mounter_started=excluded.mounter_started");
    bind(statement, record.id).bind(word(record.kind)).bind(word(record.state));
    bind(statement, record.volume);
    bind(statement, record.disk);
    bind_optional(statement, record.snapshot)
        .bind(record.writable ? 1 : 0)
        .bind(std::int64_t{record.owner_uid});
    if (record.allowed_uid)
        statement.bind(std::int64_t{*record.allowed_uid});
    else
        statement.bind_null();
    statement.bind(record.caller).bind(column(record.expires)).bind(record.address).bind(record.bitmap);
    bind(statement, record.server);
    bind(statement, record.mounter);
    bind_optional(statement, record.appliance).bind(record.serial);
    bind_optional(statement, record.backup).run();
}

Json json_of(const BackupDisk& disk) {
    return Json{{"disk", disk.disk.str()}, {"volume", disk.volume.str()},
                {"layer", disk.layer},     {"root", disk.root},
                {"device", disk.device},   {"stamp", disk.stamp},
                {"tracked", disk.tracked}, {"incremental", disk.incremental},
                {"why", disk.why},         {"export", disk.exported.str()}};
}

Json json_of(const RestoredDisk& disk) {
    return Json{{"disk", disk.disk.str()}, {"volume", disk.volume.str()}, {"name", disk.name},
                {"pool", disk.pool.str()}, {"file", disk.file},           {"format", word(disk.format)},
                {"size", disk.size},       {"sparse", disk.sparse}};
}

void write(Database& database, const BackupRecord& record) {
    Json disks = Json::array();
    for (const BackupDisk& disk : record.disks) disks.push_back(json_of(disk));
    auto statement = database.prepare(
        "INSERT INTO backup VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (id) DO UPDATE "
        "SET state=excluded.state, consistency=excluded.consistency, checkpoint=excluded.checkpoint, "
        "problem=excluded.problem, disks=excluded.disks, moment=excluded.moment");
    bind(statement, record.id);
    bind(statement, record.vm)
        .bind(word(record.kind))
        .bind(word(record.state))
        .bind(word(record.consistency))
        .bind(record.checkpoint)
        .bind(record.since)
        .bind(column(record.created))
        .bind(std::int64_t{record.owner_uid});
    if (record.allowed_uid)
        statement.bind(std::int64_t{*record.allowed_uid});
    else
        statement.bind_null();
    statement.bind(record.caller);
    bind(statement, record.qemu).bind(record.problem).bind(disks.dump()).bind(word(record.source));
    bind_optional(statement, record.snapshot)
        .bind(column(record.moment))
        .bind(record.config)
        .bind(record.config_type);
    if (record.restored)
        statement.bind(json_of(*record.restored).dump()).run();
    else
        statement.bind_null().run();
}

void write(Database& database, const ScheduleRecord& schedule) {
    auto statement = database.prepare(
        "INSERT INTO schedule VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
        "name=excluded.name, "
        "settings=excluded.settings, handled=excluded.handled, last=excluded.last, "
        "last_result=excluded.last_result, running=excluded.running");
    bind(statement, schedule.id).bind(schedule.name);
    bind(statement, schedule.vm)
        .bind(schedule_settings(schedule).dump())
        .bind(column(schedule.handled))
        .bind(column(schedule.last))
        .bind(schedule.last_result)
        .bind(schedule.running ? 1 : 0)
        .run();
}

void write(Database& database, const JobRecord& job) {
    auto statement = database.prepare(
        "INSERT INTO job VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
        "state=excluded.state, step=excluded.step, finished=excluded.finished, "
        "done_bytes=excluded.done_bytes, "
        "total_bytes=excluded.total_bytes, error_name=excluded.error_name, "
        "error_message=excluded.error_message, result=excluded.result, plan=excluded.plan");
    bind(statement, job.id).bind(job.kind).bind(word(job.subject.kind));
    bind(statement, job.subject.id)
        .bind(word(job.state))
        .bind(job.step)
        .bind(column(job.started))
        .bind(column(job.finished))
        .bind(std::int64_t{job.owner_uid})
        .bind(static_cast<std::int64_t>(job.done_bytes))
        .bind(static_cast<std::int64_t>(job.total_bytes));
    if (job.error)
        statement.bind(name(job.error->code())).bind(job.error->what());
    else
        statement.bind_null().bind_null();
    statement.bind(job.result.dump()).bind(job.plan.dump()).run();
}

void write(Database& database, const Frozen& frozen) {
    auto statement = frozen.since ? database.prepare("INSERT OR REPLACE INTO frozen VALUES (?, ?)")
                                  : database.prepare("DELETE FROM frozen WHERE vm=?");
    bind(statement, frozen.vm);
    if (frozen.since) statement.bind(column(*frozen.since));
    statement.run();
}

void write(Database& database, const ManifestStale& manifest) {
    auto statement = manifest.stale ? database.prepare("INSERT OR REPLACE INTO stale_manifest VALUES (?)")
                                    : database.prepare("DELETE FROM stale_manifest WHERE vm=?");
    bind(statement, manifest.vm).run();
}

void write(Database& database, const UnwantedFile& file) {
    auto statement = file.unwanted
                         ? database.prepare("INSERT OR REPLACE INTO unwanted_file VALUES (?, ?, ?, ?)")
                         : database.prepare("DELETE FROM unwanted_file WHERE pool=? AND file=?");
    statement.bind(file.pool).bind(file.file);
    if (file.unwanted) statement.bind(static_cast<std::int64_t>(file.inode)).bind(column(file.since));
    statement.run();
}

void write(Database& database, const Removal& removal) {
    auto statement = database.prepare(fmt::format("DELETE FROM {} WHERE id=?", word(removal.object.kind)));
    bind(statement, removal.object.id).run();
}

void commit_now(Database& database, const Changes& changes, Durability durability) {
    // In WAL mode a commit with synchronous=NORMAL writes the log without flushing it; the next FULL one
    // flushes both.
    database.execute(durability == Durability::power ? "PRAGMA synchronous=FULL"
                                                     : "PRAGMA synchronous=NORMAL");
    database.execute("BEGIN IMMEDIATE");
    try {
        for (const Change& change : changes.all())
            std::visit([&](const auto& record) { write(database, record); }, change);
        database.execute("COMMIT");
    } catch (...) {
        // Where COMMIT itself failed (disk full) the transaction may already be rolled back.
        try {
            database.execute("ROLLBACK");
        } catch (const Error&) {
        }
        throw;
    }
}

// --- reading
// ---------------------------------------------------------------------------------------------------------

SnapshotRecord read_snapshot(Database& database, const Statement& row) {
    const Json files = json_at(row, 13);
    SnapshotRecord snapshot{
        .id = uuid_at(row, 0),
        .vm = uuid_at(row, 1),
        .name = row.text(2),
        .description = row.text(3),
        .parent = uuid_at(row, 4),
        .created = time_at(row, 5),
        .vm_state = word_at<VmState>(row, 6, "VM state"),
        .consistency = word_at<Consistency>(row, 7, "consistency"),
        .status = word_at<SnapshotStatus>(row, 8, "snapshot status"),
        .origin = row.text(9),
        .disks = {},
        .excluded = {},
        .config = row.text(10),
        .config_type = row.text(11),
        .schedule = uuid_at(row, 12),
        .files = snapshot_files(JsonReader(files, "state database", ErrorCode::internal))};
    auto disks = database.prepare("SELECT disk, volume FROM snapshot_disk WHERE snapshot=? ORDER BY disk");
    bind(disks, snapshot.id);
    while (disks.row()) snapshot.disks.push_back({uuid_at(disks, 0), uuid_at(disks, 1)});
    auto excluded =
        database.prepare("SELECT disk, why FROM snapshot_excluded WHERE snapshot=? ORDER BY position");
    bind(excluded, snapshot.id);
    while (excluded.row()) snapshot.excluded.push_back({uuid_at(excluded, 0), excluded.text(1)});
    return snapshot;
}

ProcessMark process_at(const Statement& row, int index) {
    return {static_cast<std::uint64_t>(row.number(index)), static_cast<std::uint64_t>(row.number(index + 1))};
}

ExportRecord read_export(const Statement& row) {
    ExportRecord record{.id = uuid_at(row, 0),
                        .kind = word_at<ExportKind>(row, 1, "kind of export"),
                        .state = word_at<ExportState>(row, 2, "state of an export"),
                        .volume = uuid_at(row, 3),
                        .disk = uuid_at(row, 4),
                        .snapshot = uuid_at(row, 5),
                        .writable = row.number(6) != 0,
                        .owner_uid = static_cast<std::uint32_t>(row.number(7)),
                        .allowed_uid = std::nullopt,
                        .caller = row.text(9),
                        .expires = time_at(row, 10),
                        .address = row.text(11),
                        .bitmap = row.text(12),
                        .server = process_at(row, 13),
                        .mounter = process_at(row, 15),
                        .appliance = uuid_at(row, 17),
                        .serial = row.text(18),
                        .backup = uuid_at(row, 19)};
    if (!row.null(8)) record.allowed_uid = static_cast<std::uint32_t>(row.number(8));
    return record;
}

BackupDisk backup_disk(const JsonReader& entry) {
    BackupDisk disk;
    disk.disk = id_in(entry.at("disk"));
    disk.volume = id_in(entry.at("volume"));
    disk.layer = entry.at("layer").string();
    disk.root = entry.at("root").string();
    disk.device = entry.at("device").string();
    disk.stamp = entry.string_or("stamp", "");
    disk.tracked = entry.at("tracked").boolean();
    disk.incremental = entry.at("incremental").boolean();
    disk.why = entry.at("why").string();
    disk.exported = id_in(entry.at("export"));
    return disk;
}

RestoredDisk restored_disk(const JsonReader& entry) {
    RestoredDisk disk;
    disk.disk = id_in(entry.at("disk"));
    disk.volume = id_in(entry.at("volume"));
    disk.name = entry.at("name").string();
    disk.pool = id_in(entry.at("pool"));
    disk.file = entry.at("file").string();
    disk.format = from_word<VolumeFormat>(entry.at("format").string()).value_or(VolumeFormat::qcow2);
    disk.size = entry.at("size").u64();
    disk.sparse = entry.at("sparse").boolean();
    return disk;
}

BackupRecord read_backup(const Statement& row) {
    BackupRecord record{.id = uuid_at(row, 0),
                        .vm = uuid_at(row, 1),
                        .kind = word_at<BackupKind>(row, 2, "kind of backup"),
                        .state = word_at<BackupState>(row, 3, "state of a backup"),
                        .consistency = word_at<Consistency>(row, 4, "consistency"),
                        .checkpoint = row.text(5),
                        .since = row.text(6),
                        .created = time_at(row, 7),
                        .owner_uid = static_cast<std::uint32_t>(row.number(8)),
                        .allowed_uid = std::nullopt,
                        .caller = row.text(10),
                        .qemu = process_at(row, 11),
                        .problem = row.text(13),
                        .disks = {},
                        .source = word_at<BackupSource>(row, 15, "source of a backup"),
                        .snapshot = uuid_at(row, 16),
                        .moment = time_at(row, 17),
                        .config = row.text(18),
                        .config_type = row.text(19),
                        .restored = std::nullopt};
    if (!row.null(9)) record.allowed_uid = static_cast<std::uint32_t>(row.number(9));
    const Json disks = json_at(row, 14);
    for (const JsonReader& entry : JsonReader(disks, "disks of a backup", ErrorCode::internal).elements())
        record.disks.push_back(backup_disk(entry));
    if (row.null(20)) return record;
    const Json restored = json_at(row, 20);
    record.restored = restored_disk(JsonReader(restored, "restore of a disk", ErrorCode::internal));
    return record;
}

ScheduleRecord read_schedule(const Statement& row) {
    ScheduleRecord schedule;
    schedule.id = uuid_at(row, 0);
    schedule.name = row.text(1);
    schedule.vm = uuid_at(row, 2);
    const Json settings = json_at(row, 3);
    read_schedule_settings(JsonReader(settings, "state database", ErrorCode::internal), schedule);
    schedule.handled = time_at(row, 4);
    schedule.last = time_at(row, 5);
    schedule.last_result = row.text(6);
    schedule.running = row.number(7) != 0;
    return schedule;
}

JobRecord read_job(const Statement& row) {
    JobRecord job{.id = uuid_at(row, 0),
                  .kind = row.text(1),
                  .subject = {word_at<ObjectKind>(row, 2, "kind of object"), uuid_at(row, 3)},
                  .state = word_at<JobState>(row, 4, "job state"),
                  .step = row.text(5),
                  .started = time_at(row, 6),
                  .finished = time_at(row, 7),
                  .owner_uid = static_cast<std::uint32_t>(row.number(8)),
                  .done_bytes = static_cast<std::uint64_t>(row.number(9)),
                  .total_bytes = static_cast<std::uint64_t>(row.number(10)),
                  .error = std::nullopt,
                  .result = json_at(row, 13),
                  .plan = json_at(row, 14)};
    if (!row.null(11)) job.error.emplace(error_code(row.text(11)), row.text(12));
    return job;
}

/// From that column on.
std::optional<PreviewRecord> preview_at(const Statement& row, int index) {
    if (row.null(index)) return std::nullopt;
    PreviewRecord preview{uuid_at(row, index), row.number(index + 1) != 0, row.text(index + 2),
                          row.text(index + 3)};
    preview.former_resumes_from = uuid_at(row, 16);
    const Json nvram = json_at(row, 17);
    preview.former_nvram = snapshot_files(JsonReader(nvram, "state database", ErrorCode::internal));
    return preview;
}

VmRecord read_vm_row(const Statement& row) {
    VmRecord vm{uuid_at(row, 0),    row.text(1),        row.text(2),     row.text(3),
                row.text(4),        row.text(5),        uuid_at(row, 6), row.number(7) != 0,
                row.number(8) != 0, preview_at(row, 9), json_at(row, 13)};
    const Json nvram = json_at(row, 14);
    vm.nvram = nvram_stores(JsonReader(nvram, "state database", ErrorCode::internal));
    vm.resumes_from = uuid_at(row, 15);
    return vm;
}

void read_objects(Database& database, Records& records) {
    auto pools = database.prepare("SELECT id, name, path FROM pool");
    while (pools.row()) records.pools.push_back({uuid_at(pools, 0), pools.text(1), pools.text(2)});

    auto disks =
        database.prepare("SELECT id, name, vm, target, active, former, shareable, node_options FROM disk");
    while (disks.row())
        records.disks.push_back({uuid_at(disks, 0), disks.text(1), uuid_at(disks, 2), disks.text(3),
                                 uuid_at(disks, 4), uuid_at(disks, 5), disks.number(6) != 0,
                                 json_at(disks, 7)});

    auto volumes = database.prepare("SELECT id, disk, pool, file, format, created, mark FROM volume");
    while (volumes.row())
        records.volumes.push_back({uuid_at(volumes, 0), uuid_at(volumes, 1), uuid_at(volumes, 2),
                                   volumes.text(3), word_at<VolumeFormat>(volumes, 4, "volume format"),
                                   time_at(volumes, 5), word_at<VolumeMark>(volumes, 6, "mark of a volume")});

    auto vms = database.prepare(
        "SELECT id, name, qmp_socket, agent_socket, config, config_type, current_snapshot, adopt, "
        "foreign_manager, preview, preview_with_config, former_config, former_config_type, profiles, nvram, "
        "resumes_from, former_resumes_from, former_nvram FROM vm");
    while (vms.row()) records.vms.push_back(read_vm_row(vms));
}

}  // namespace

Store::Store(const std::string& path) : database_(std::make_unique<Database>(path)) {
    migrate(*database_);
}

Store::~Store() = default;

Records Store::load() {
    Records records;
    read_objects(*database_, records);

    auto snapshots = database_->prepare(
        "SELECT id, vm, name, description, parent, created, vm_state, consistency, status, origin, config, "
        "config_type, schedule, files FROM snapshot");
    while (snapshots.row()) records.snapshots.push_back(read_snapshot(*database_, snapshots));

    auto exports = database_->prepare(
        "SELECT id, kind, state, volume, disk, snapshot, writable, owner_uid, allowed_uid, caller, expires, "
        "address, bitmap, server_pid, server_started, mounter_pid, mounter_started, "
        "appliance, serial, backup FROM export");
    while (exports.row()) records.exports.push_back(read_export(exports));

    auto backups = database_->prepare(
        "SELECT id, vm, kind, state, consistency, checkpoint, since, created, owner_uid, allowed_uid, "
        "caller, "
        "qemu_pid, qemu_started, problem, disks, source, snapshot, moment, config, config_type, restored "
        "FROM "
        "backup");
    while (backups.row()) records.backups.push_back(read_backup(backups));
    auto schedules = database_->prepare(
        "SELECT id, name, vm, settings, handled, last, last_result, running FROM schedule");
    while (schedules.row()) records.schedules.push_back(read_schedule(schedules));

    auto jobs = database_->prepare(
        "SELECT id, kind, subject_kind, subject, state, step, started, finished, owner_uid, done_bytes, "
        "total_bytes, "
        "error_name, error_message, result, plan FROM job");
    while (jobs.row()) records.jobs.push_back(read_job(jobs));

    auto frozen = database_->prepare("SELECT vm, since FROM frozen");
    while (frozen.row()) records.frozen.push_back({uuid_at(frozen, 0), time_at(frozen, 1)});

    auto stale = database_->prepare("SELECT vm FROM stale_manifest");
    while (stale.row()) records.stale_manifests.push_back(uuid_at(stale, 0));

    auto unwanted = database_->prepare("SELECT pool, file, inode, since FROM unwanted_file");
    while (unwanted.row())
        records.unwanted_files.push_back({unwanted.text(0), unwanted.text(1),
                                          static_cast<std::uint64_t>(unwanted.number(2)),
                                          time_at(unwanted, 3)});
    return records;
}

async::Task<> Store::commit(Changes changes, Durability durability) {
    auto work = [this, changes = std::move(changes), durability] {
        commit_now(*database_, changes, durability);
    };
    co_await worker_.run(std::move(work));
}

}  // namespace volchain::storage
