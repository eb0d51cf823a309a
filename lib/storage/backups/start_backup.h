// SPDX-License-Identifier: MIT
//
// The operation that begins a backup: one moment of a VM's disks is held and can be read over NBD, with what has changed since a
// checkpoint, and a new checkpoint of that moment. In push mode it is all of the backup: QEMU writes the files itself
// (pushed_files.h), and when the job ends nothing is held any more.
//
// What of a disk's changes is not known, for whatever reason, makes the backup of that disk a full one, and is said.
//
// Steps: those of what holds the moment (moment_holder.h), finish; or of push: copy, publish (the files get their names), end. What
// fails on the way, or is broken off by a crash, is undone: nothing is left of it, and the checkpoint neither. From publish on it
// is finished.
#pragma once

#include "storage/backups/backup_request.h"

namespace volchain::storage {

/// The job's id. Its result: "backup", or of push "files", "checkpoint" and "moment-usec"; of a running VM "hold-usec", and "quiesce"
/// and "frozen-usec" as of a snapshot.
async::Task<Uuid> start_backup(Engine& engine, BackupRequest request);

async::Task<> recover_start_backup(Engine& engine, JobPtr job);
[[nodiscard]] std::vector<ObjectId> locks_of_start_backup(const JobRecord& job);

}  // namespace volchain::storage
