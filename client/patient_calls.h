// SPDX-License-Identifier: MIT
//
// The calls of a backup's, or a restore's, that a restart of the daemon in the middle does not make fail: they wait for it for a
// minute and a half, and find out what became of what they had asked for. Each throws what the daemon says, and Unreachable
// where it stays away.
#pragma once

#include "client/backup_work.h"

namespace volchain::client {

/// Export.Open: a connected socket.
async::Task<UniqueFd> open_export(BackupWork& work, bus::ObjectPath shown);

/// Backup.Finish, to the end of its job: the result. It cannot be stopped: what it has begun ends one way or the other, and that
/// is to be known.
async::Task<bus::Dict> finish_backup(BackupWork& work, bus::ObjectPath backup);

}  // namespace volchain::client
