// SPDX-License-Identifier: MIT
//
// The operation that ends the restore of a disk (restore_disk.h): what was written becomes a disk; or nothing is left of it.
//
// Steps of finish: flush (clients lose their connections, what they wrote is on the medium), close (the storage daemon), check (the
// image), finish. A crash before the flush is done loses what was written, where the storage daemon has ended, too, and the restore
// fails; from close on it is carried on. Of abort, and where it fails: end (the storage daemon), remove (sockets and image), finish:
// each can be done again, after a crash, too.
#pragma once

#include "storage/backups/backup_outcome.h"
#include "storage/engine.h"

namespace volchain::storage {

/// Started by finish_backup(), abort_backup() and fail_backup() (end_backup.h).
async::Task<> end_restore(Engine& engine, JobPtr job, EndPlan plan);
async::Task<> recover_end_restore(Engine& engine, JobPtr job, EndPlan plan);

/// Does away with all that a restore consists of; the records stay.
async::Task<> remove_restored(Engine& engine, BackupRecord record);

}  // namespace volchain::storage
