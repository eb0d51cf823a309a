// SPDX-License-Identifier: MIT
#include "storage/backups/backup_request.h"

#include <unistd.h>

#include <algorithm>
#include <set>

#include "base/text.h"
#include "storage/checkpoints/checkpoints.h"
#include "storage/exports/shown_volume.h"

namespace volchain::storage {
namespace {

[[noreturn]] void refuse_backup_option(std::string_view option, std::string_view why) {
    throw Error(ErrorCode::invalid_argument, "option '{}' {}", option, why);
}

void check_push(const BackupRequest& request) {
    if (!request.push) {
        if (request.speed != 0) refuse_backup_option("speed", "is for backups in push mode");
        return;
    }
    if (request.allowed_uid) refuse_backup_option("allow-uid", "is for backups in pull mode");
    if (!request.caller.empty()) refuse_backup_option("bind-to-caller", "is for backups in pull mode");
    check_push_directory(request.push->directory);
}

/// That moment is over: nothing can be done at it any more.
void check_snapshot(const Catalog& catalog, const BackupRequest& request) {
    if (request.snapshot.nil()) return;
    if (catalog.snapshot(request.snapshot).vm != request.vm)
        throw Error(ErrorCode::invalid_argument, "option 'snapshot': {} is none of {}",
                    catalog.describe({ObjectKind::snapshot, request.snapshot}),
                    catalog.describe({ObjectKind::vm, request.vm}));
    constexpr std::string_view why = "is not for backups of a snapshot, whose moment is over";
    if (!request.checkpoint.empty()) refuse_backup_option("checkpoint", why);
    if (request.quiesce) refuse_backup_option("quiesce", why);
    if (request.freeze_timeout) refuse_backup_option("freeze-timeout-usec", why);
}

std::vector<WantedDisk> disks_of_snapshot(const Catalog& catalog, const BackupRequest& request) {
    std::vector<WantedDisk> wanted;
    std::vector<Uuid> disks;
    for (const SnapshotDisk& part : catalog.snapshot(request.snapshot).disks) disks.push_back(part.disk);
    if (request.disks) disks = *request.disks;
    for (const Uuid& disk : std::set<Uuid>(disks.begin(), disks.end()))
        wanted.push_back({disk, volume_of_snapshot(catalog, request.snapshot, disk)});
    if (wanted.empty())
        throw Error(ErrorCode::invalid_argument, "{} has no disks",
                    catalog.describe({ObjectKind::snapshot, request.snapshot}));
    return wanted;
}

/// What began with a backup that failed has been backed up by nobody.
bool of_failed_backup(const Catalog& catalog, const CheckpointName& name) {
    const std::string bitmap = name.bitmap();
    return std::any_of(catalog.backups().begin(), catalog.backups().end(), [&](const auto& entry) {
        return entry.second.state == BackupState::failed && entry.second.checkpoint == bitmap;
    });
}

/// The youngest that can be used; where none can, the youngest: its flaw is why there is a full backup.
std::string youngest(const Catalog& catalog, std::vector<Checkpoint> all) {
    std::erase_if(all, [&](const Checkpoint& one) { return of_failed_backup(catalog, one.name); });
    const auto usable = std::find_if(all.rbegin(), all.rend(), [](const Checkpoint& one) {
        return one.state != CheckpointState::unusable;
    });
    if (usable != all.rend()) return usable->name.bitmap();
    return all.empty() ? std::string() : all.back().name.bitmap();
}

}  // namespace

void check_backup_request(const Catalog& catalog, const BackupRequest& request) {
    if (request.kind == BackupKind::full && !request.since.empty())
        refuse_backup_option("since", "is for incremental and differential backups");
    if (request.kind == BackupKind::full && request.require_incremental)
        refuse_backup_option("require-incremental", "is for incremental and differential backups");
    if (request.kind == BackupKind::differential && request.since.empty())
        refuse_backup_option("since", "is missing: the checkpoint that a differential backup goes back to");
    if (!request.checkpoint.empty()) check_checkpoint_name(request.checkpoint);
    if (request.disks && request.disks->empty()) refuse_backup_option("disks", "is empty");
    check_snapshot(catalog, request);
    check_push(request);
    if (request.allowed_uid == UINT32_MAX) refuse_backup_option("allow-uid", "is no user");
    const bool others = request.owner_uid != ::geteuid() ||
                        request.allowed_uid.value_or(request.owner_uid) != request.owner_uid;
    if (others && !request.push && ::geteuid() != 0)
        throw Error(ErrorCode::unsupported,
                    "only a daemon that runs as root can let other users than its own connect");
}

std::vector<WantedDisk> disks_to_back_up(const Catalog& catalog, const BackupRequest& request) {
    if (request.snapshot) return disks_of_snapshot(catalog, request);
    const std::vector<Uuid> of_vm = catalog.disks_of_vm(request.vm);
    if (of_vm.empty())
        throw Error(ErrorCode::invalid_argument, "{} has no disks",
                    catalog.describe({ObjectKind::vm, request.vm}));
    const std::vector<Uuid> named = request.disks.value_or(of_vm);
    std::vector<WantedDisk> wanted;
    for (const Uuid& disk : std::set<Uuid>(named.begin(), named.end())) {
        if (std::find(of_vm.begin(), of_vm.end(), disk) == of_vm.end())
            throw Error(ErrorCode::invalid_argument, "option 'disks': {} is not a disk of {}",
                        catalog.describe({ObjectKind::disk, disk}),
                        catalog.describe({ObjectKind::vm, request.vm}));
        wanted.push_back({disk, catalog.disk(disk).active});
    }
    return wanted;
}

std::string bitmap_since(const Engine& engine, const BackupRequest& request) {
    if (request.kind == BackupKind::full) return {};
    const bool of_snapshot = !request.snapshot.nil();
    if (!request.since.empty() && of_snapshot)
        return find_checkpoint_before(engine, request.snapshot, request.since).bitmap();
    if (!request.since.empty()) return find_checkpoint(engine, request.vm, request.since).bitmap();
    std::vector<Checkpoint> all =
        of_snapshot ? checkpoints_before(engine, request.snapshot) : checkpoints_of(engine, request.vm);
    return youngest(engine.catalog(), std::move(all));
}

std::string new_bitmap(const Engine& engine, const BackupRequest& request) {
    if (request.checkpoint.empty()) return {};
    return new_checkpoint(engine, request.vm, request.checkpoint, now()).bitmap();
}

}  // namespace volchain::storage
