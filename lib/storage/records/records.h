// SPDX-License-Identifier: MIT
//
// The records: what volchain remembers of each object, as plain values. They hold names, intentions and
// history. What a chain looks like (which file is whose backing file, sizes, bitmaps) is not remembered: it
// is read from the image headers and from QEMU (see VolumeFacts in catalog.h).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/enum_names.h"
#include "base/error.h"
#include "base/json.h"
#include "base/process_mark.h"
#include "base/timestamp.h"
#include "base/uuid.h"
#include "storage/schedules/retention.h"

namespace volchain::storage {

enum class ObjectKind { pool, disk, volume, vm, snapshot, exported, backup, schedule, job };
constexpr auto enum_names(ObjectKind) {
    return std::to_array<EnumName<ObjectKind>>({{ObjectKind::pool, "pool"},
                                                {ObjectKind::disk, "disk"},
                                                {ObjectKind::volume, "volume"},
                                                {ObjectKind::vm, "vm"},
                                                {ObjectKind::snapshot, "snapshot"},
                                                {ObjectKind::exported, "export"},
                                                {ObjectKind::backup, "backup"},
                                                {ObjectKind::schedule, "schedule"},
                                                {ObjectKind::job, "job"}});
}

struct ObjectId {
    ObjectKind kind{};
    Uuid id;
    friend bool operator==(const ObjectId&, const ObjectId&) = default;
};

/// How an object stands in a job's result.
[[nodiscard]] inline Json object_json(const ObjectId& object) {
    return Json{{"kind", word(object.kind)}, {"id", object.id.str()}};
}

/// How a list of records stands in a job's result: also an empty one says what it is.
[[nodiscard]] inline Json list_json(Json records) {
    return Json{{"records", std::move(records)}};
}

/// An id in a plan of ours; nil where it is none.
[[nodiscard]] inline Uuid id_in(const JsonReader& value) {
    return Uuid::parse(value.string()).value_or(Uuid{});
}

/// A directory in which volumes live.
struct PoolRecord {
    Uuid id;
    std::string name;
    std::string path;  ///< absolute, without symbolic links
};

/// One logical disk: a tree of volumes and its active leaf.
struct DiskRecord {
    Uuid id;
    std::string name;
    Uuid vm;             ///< nil: floating
    std::string target;  ///< the guest device: serial or qdev id
    Uuid active;         ///< the volume that the guest writes to, or would
    Uuid former{};       ///< while a preview is shown: the volume that was active before it; else nil
    bool shareable = false;
    /// qmp::NodeOptions (cache, aio, discard, detect-zeroes) that its layers are opened with; an object.
    Json node_options = Json::object();
};

enum class VolumeFormat { qcow2, raw };
constexpr auto enum_names(VolumeFormat) {
    return std::to_array<EnumName<VolumeFormat>>(
        {{VolumeFormat::qcow2, "qcow2"}, {VolumeFormat::raw, "raw"}});
}

/// What is to be said of a volume that no header says.
enum class VolumeMark {
    none,
    leftover,  ///< its snapshot was deleted; it stays only because several volumes stand on it
    illegal,  ///< what it shows by itself stands for nothing: a merge goes into it, or has made it superfluous
};
constexpr auto enum_names(VolumeMark) {
    return std::to_array<EnumName<VolumeMark>>(
        {{VolumeMark::none, "none"}, {VolumeMark::leftover, "leftover"}, {VolumeMark::illegal, "illegal"}});
}

/// One image file.
struct VolumeRecord {
    Uuid id;
    Uuid disk;
    Uuid pool;
    std::string file;  ///< path relative to the pool
    VolumeFormat format{};
    Timestamp created;
    VolumeMark mark = VolumeMark::none;
};

/// What a snapshot keeps beside its volumes, in a file of a pool.
enum class SnapshotFileKind {
    memory,  ///< RAM and the state of devices, as QEMU writes them
    nvram,   ///< a copy of a variable store of the firmware
};
constexpr auto enum_names(SnapshotFileKind) {
    return std::to_array<EnumName<SnapshotFileKind>>(
        {{SnapshotFileKind::memory, "memory"}, {SnapshotFileKind::nvram, "nvram"}});
}

struct SnapshotFile {
    SnapshotFileKind kind{};
    Uuid pool;
    std::string file;  ///< path relative to the pool
    std::uint64_t bytes = 0;
    std::string store{};  ///< of a copy: the path of what it is a copy of
    friend bool operator==(const SnapshotFile&, const SnapshotFile&) = default;
};

/// A variable store of a VM's firmware (UEFI), which its QEMU writes to: a small raw file that is no disk.
struct NvramStore {
    std::string path;  ///< absolute, without symbolic links
    std::uint32_t uid =
        0;  ///< its owner when it was named: nobody else's file is read or written in its place
    friend bool operator==(const NvramStore&, const NvramStore&) = default;
};

/// What a VM shows while it is neither committed nor undone; its disks know their former volumes themselves.
struct PreviewRecord {
    Uuid snapshot;  ///< whose child the next snapshot will be once the preview is committed
    /// The VM's configuration before, where the preview brought the snapshot's along.
    bool with_config = false;
    std::string former_config;
    std::string former_config_type;
    Uuid former_resumes_from{};
    std::vector<SnapshotFile>
        former_nvram{};  ///< what the stores held before, where the preview changed them
    friend bool operator==(const PreviewRecord&, const PreviewRecord&) = default;
};

struct VmRecord {
    Uuid id;
    std::string name;
    std::string qmp_socket;        ///< empty: volchain cannot talk to it and takes it for shut off
    std::string agent_socket;      ///< empty: no guest agent
    std::string config;            ///< opaque document of its manager (OVF, libvirt XML, ...)
    std::string config_type;       ///< its MIME type
    Uuid current_snapshot;         ///< whose child the next snapshot will be
    bool adopt = true;             ///< disks found in its block graph become records
    bool foreign_manager = false;  ///< registered although another manager (libvirt) runs it
    std::optional<PreviewRecord> preview{};
    Json profiles = Json::object();  ///< snapshot options (snapshot_options.h) by name
    std::vector<NvramStore> nvram{};
    /// The snapshot whose memory it goes on from at its next start (resume_state.h); nil: it boots. It may be gone.
    Uuid resumes_from{};
};

enum class VmState { running, paused, shutoff, crashed, unreachable };
constexpr auto enum_names(VmState) {
    return std::to_array<EnumName<VmState>>({{VmState::running, "running"},
                                             {VmState::paused, "paused"},
                                             {VmState::shutoff, "shutoff"},
                                             {VmState::crashed, "crashed"},
                                             {VmState::unreachable, "unreachable"}});
}

/// What a snapshot's content is worth, best first.
enum class Consistency {
    memory,       ///< RAM and devices of the same instant are there, too: the guest goes on from it
    application,  ///< frozen, and the agent had the applications flush (Windows VSS)
    filesystem,   ///< file systems frozen: clean, nothing to replay
    crash,        ///< as after a power cut
    offline,      ///< the VM was down
};
constexpr auto enum_names(Consistency) {
    return std::to_array<EnumName<Consistency>>({{Consistency::memory, "memory"},
                                                 {Consistency::application, "application"},
                                                 {Consistency::filesystem, "filesystem"},
                                                 {Consistency::crash, "crash"},
                                                 {Consistency::offline, "offline"}});
}

enum class SnapshotStatus {
    creating,
    ok,
    partial,   ///< disks were left out
    deleting,  ///< a deletion is under way
    failed,  ///< a deletion ended halfway: what it held is not all there any more, and it can only be deleted
};
constexpr auto enum_names(SnapshotStatus) {
    return std::to_array<EnumName<SnapshotStatus>>({{SnapshotStatus::creating, "creating"},
                                                    {SnapshotStatus::ok, "ok"},
                                                    {SnapshotStatus::partial, "partial"},
                                                    {SnapshotStatus::deleting, "deleting"},
                                                    {SnapshotStatus::failed, "failed"}});
}

struct SnapshotDisk {
    Uuid disk;
    Uuid volume;  ///< its content is the snapshot's; immutable while the snapshot exists
    friend bool operator==(const SnapshotDisk&, const SnapshotDisk&) = default;
};

struct ExcludedDisk {
    Uuid disk;
    std::string why;
    friend bool operator==(const ExcludedDisk&, const ExcludedDisk&) = default;
};

struct SnapshotRecord {
    Uuid id;
    Uuid vm;  ///< nil: of a floating disk
    std::string name;
    std::string description;
    Uuid parent;
    Timestamp created;
    VmState vm_state{};
    Consistency consistency{};
    SnapshotStatus status{};
    std::string origin = "user";
    std::vector<SnapshotDisk> disks;
    std::vector<ExcludedDisk> excluded;
    std::string config;  ///< the VM's at that time
    std::string config_type;
    Uuid schedule{};  ///< which made it, and may remove it; it may be gone
    std::vector<SnapshotFile> files{};
};

/// The file with its memory; null: it has none.
[[nodiscard]] inline const SnapshotFile* memory_of(const SnapshotRecord& snapshot) noexcept {
    for (const SnapshotFile& file : snapshot.files)
        if (file.kind == SnapshotFileKind::memory) return &file;
    return nullptr;
}

/// How a volume is shown to a backup appliance.
enum class ExportKind {
    nbd,     ///< over a socket
    file,    ///< as a raw image at a path, through FUSE
    device,  ///< as a disk of the appliance's VM
};
constexpr auto enum_names(ExportKind) {
    return std::to_array<EnumName<ExportKind>>(
        {{ExportKind::nbd, "nbd"}, {ExportKind::file, "file"}, {ExportKind::device, "device"}});
}

enum class ExportState {
    starting,
    ready,
    stopping,
    lost,  ///< what showed it has ended by itself; it is done away with
};
constexpr auto enum_names(ExportState) {
    return std::to_array<EnumName<ExportState>>({{ExportState::starting, "starting"},
                                                 {ExportState::ready, "ready"},
                                                 {ExportState::stopping, "stopping"},
                                                 {ExportState::lost, "lost"}});
}

/// A volume shown to a backup appliance. It and all that it stands on stay as they are while this exists.
struct ExportRecord {
    Uuid id;
    ExportKind kind{};
    ExportState state{};
    Uuid volume;  ///< nil, as the disk: an image in the making
    Uuid disk;
    Uuid snapshot;  ///< nil: the volume for itself
    bool writable = false;
    std::uint32_t owner_uid = 0;
    std::optional<std::uint32_t> allowed_uid;  ///< who may connect instead of the owner
    std::string caller;                        ///< whose leaving the bus ends it; empty: nobody's
    Timestamp expires{};                       ///< the epoch: never
    std::string address;                       ///< of a TCP socket, "192.0.2.1:10809"; empty: a Unix socket
    std::string bitmap;                        ///< a meta context; empty: none
    ProcessMark server;                        ///< the storage daemon that shows it, or the appliance's QEMU
    ProcessMark mounter;                       ///< of a file: the one that has mounted it
    Uuid appliance;                            ///< the VM that it is a disk of
    std::string serial;                        ///< of that disk
    Uuid backup{};                             ///< which it is a part of, and ends with; nil: of none
    friend bool operator==(const ExportRecord&, const ExportRecord&) = default;
};

enum class BackupKind {
    full,
    incremental,   ///< since the last checkpoint
    differential,  ///< since an earlier one
};
constexpr auto enum_names(BackupKind) {
    return std::to_array<EnumName<BackupKind>>({{BackupKind::full, "full"},
                                                {BackupKind::incremental, "incremental"},
                                                {BackupKind::differential, "differential"}});
}

/// What a backup is of.
enum class BackupSource {
    running,   ///< the disks of a VM that runs, held in its QEMU (backup_nodes.h)
    down,      ///< the images of a VM that is down, as they are (stored_backup.h)
    snapshot,  ///< those of a snapshot, which nobody changes
};
constexpr auto enum_names(BackupSource) {
    return std::to_array<EnumName<BackupSource>>({{BackupSource::running, "running"},
                                                  {BackupSource::down, "down"},
                                                  {BackupSource::snapshot, "snapshot"}});
}

enum class BackupState {
    starting,
    ready,   ///< the moment is held, and can be read; of a restore: the image can be written to
    ending,  ///< it is being finished, or done away with
    failed,  ///< nothing is held any more; why, is said
};
constexpr auto enum_names(BackupState) {
    return std::to_array<EnumName<BackupState>>({{BackupState::starting, "starting"},
                                                 {BackupState::ready, "ready"},
                                                 {BackupState::ending, "ending"},
                                                 {BackupState::failed, "failed"}});
}

/// A disk in a backup, as it was found when that began; nobody changes its chain meanwhile.
struct BackupDisk {
    Uuid disk;
    Uuid volume;  ///< the active one, or the snapshot's
    // In the QEMU of its VM, where that runs.
    std::string layer;    ///< the volume's node
    std::string root;     ///< the node that the device has without the backup: that one, or a filter above it
    std::string device;   ///< QOM path of what has the property "drive"
    std::string stamp{};  ///< of a VM that is down: ImageStamp of the volume, since when it must not change
    bool tracked = false;      ///< the new checkpoint has a bitmap in it
    bool incremental = false;  ///< it is known what has changed
    std::string why{};         ///< it is not, although that was asked for
    Uuid exported{};
    friend bool operator==(const BackupDisk&, const BackupDisk&) = default;
};

/// A disk in the making, that somebody fills from a backup (restore_disk.h).
struct RestoredDisk {
    Uuid disk;  ///< the ids that it and its volume will have
    Uuid volume;
    std::string name;
    Uuid pool;
    std::string file;  ///< relative to the pool
    VolumeFormat format{};
    std::uint64_t size = 0;
    bool sparse = true;  ///< what is discarded is freed
    friend bool operator==(const RestoredDisk&, const RestoredDisk&) = default;
};

/// One moment of a VM's disks, held for a backup. As long as it exists and has not failed, its disks are locked, but for those of a
/// snapshot. Or the other way round: a disk that is being restored.
struct BackupRecord {
    Uuid id;
    Uuid vm;  ///< nil: a restore
    BackupKind kind{};
    BackupState state{};
    Consistency consistency = Consistency::crash;
    std::string checkpoint;  ///< the bitmaps that begin with it; empty: none
    std::string since;       ///< those that say what has changed; empty: none
    Timestamp created{};
    std::uint32_t owner_uid = 0;
    std::optional<std::uint32_t> allowed_uid{};  ///< who may connect instead of the owner
    std::string caller{};                        ///< whose leaving the bus ends it; empty: nobody's
    ProcessMark qemu{};                          ///< the one that holds it, of a running VM
    std::string problem{};                       ///< why it has failed
    std::vector<BackupDisk> disks{};
    BackupSource source = BackupSource::running;
    Uuid snapshot{};       ///< which it is of
    Timestamp moment{};    ///< that it shows; the epoch: it is not held yet
    std::string config{};  ///< the VM's at that moment
    std::string config_type{};
    std::optional<RestoredDisk> restored{};  ///< none: it is a backup
    friend bool operator==(const BackupRecord&, const BackupRecord&) = default;
};

/// What a schedule does when its VM is down.
enum class WhenDown { skip, snapshot };
constexpr auto enum_names(WhenDown) {
    return std::to_array<EnumName<WhenDown>>({{WhenDown::skip, "skip"}, {WhenDown::snapshot, "snapshot"}});
}

/// Snapshots of a VM that are taken, and removed again, by the calendar.
struct ScheduleRecord {
    Uuid id;
    std::string name;
    Uuid vm;
    std::string calendar;
    std::string time_zone;  ///< empty: the host's
    bool enabled = true;
    Microseconds jitter{};  ///< a run comes so much later, at most
    WhenDown when_down = WhenDown::skip;
    Keep keep;
    std::uint32_t max_chain = 0;     ///< layers of a disk; 0: any
    std::uint64_t speed = 0;         ///< of the merges, bytes a second; 0: without limit
    Json snapshot = Json::object();  ///< snapshot options
    std::uint32_t owner_uid = 0;     ///< who made it: its jobs are theirs
    Timestamp handled;               ///< all that was due up to then is done
    Timestamp last;                  ///< when the last run began; the epoch: never
    std::string
        last_result;       ///< "ok", "skipped: ...", "failed: ..."; empty while the first one has not ended
    bool running = false;  ///< a run has begun, and what follows it not ended
};

enum class JobState { queued, running, paused, cancelling, succeeded, failed, cancelled };
constexpr auto enum_names(JobState) {
    return std::to_array<EnumName<JobState>>({{JobState::queued, "queued"},
                                              {JobState::running, "running"},
                                              {JobState::paused, "paused"},
                                              {JobState::cancelling, "cancelling"},
                                              {JobState::succeeded, "succeeded"},
                                              {JobState::failed, "failed"},
                                              {JobState::cancelled, "cancelled"}});
}
[[nodiscard]] constexpr bool finished(JobState state) {
    return state == JobState::succeeded || state == JobState::failed || state == JobState::cancelled;
}

struct JobRecord {
    Uuid id;
    std::string kind;  ///< "create-snapshot", ...
    ObjectId subject;
    JobState state{};
    std::string step;
    Timestamp started;
    Timestamp finished;  ///< the epoch: not yet
    std::uint32_t owner_uid = 0;
    std::uint64_t done_bytes = 0;  ///< on disk only when the job has ended
    std::uint64_t total_bytes = 0;
    std::optional<Error> error;
    /// Result by name: {"snapshot": {"kind": "snapshot", "id": "..."}} for objects, numbers and strings as
    /// they are.
    Json result = Json::object();
    /// What recovery needs to carry the operation on or undo it; belongs to the operation.
    Json plan = Json::object();
};

}  // namespace volchain::storage
