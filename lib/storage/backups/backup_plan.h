// SPDX-License-Identifier: MIT
//
// What a backup will be, found out before anything is done: which nodes or images its disks are, of which disks it is known what has
// changed, and why of the others it is not. A disk of which that is not known, for whatever reason, is backed up in full, and that is
// said; where that is not wanted, nothing is begun.
#pragma once

#include "storage/backups/backup_request.h"

namespace volchain::storage {

/// The record of a backup of a running VM's disks, and its exports' ids in pull mode. The disks are locked by the caller.
async::Task<BackupRecord> plan_running_backup(Engine& engine, BackupRequest request);
/// The same of images that no guest writes to: those of a VM that is down, or of a snapshot.
[[nodiscard]] BackupRecord plan_stored_backup(const Engine& engine, const BackupRequest& request);

/// Unsupported where the plan is not what was asked for: no image takes the checkpoint; not incremental, which is required.
void check_plan(const Catalog& catalog, const BackupRequest& request, const BackupRecord& record);

/// What shows a disk of a backup in pull mode; state and server are for whoever makes it.
[[nodiscard]] ExportRecord export_of_backup(const BackupRecord& backup, const BackupDisk& disk);

}  // namespace volchain::storage
