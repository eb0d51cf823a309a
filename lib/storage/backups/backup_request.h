// SPDX-License-Identifier: MIT
//
// BackupRequest: what is asked for when a backup is begun, and what follows from it alone: which disks, which bitmaps. What the
// backup of each disk will be is the plan's (backup_plan.h).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "storage/backups/pushed_files.h"
#include "storage/engine.h"
#include "storage/vms/quiesce.h"

namespace volchain::storage {

/// A class with a constructor, so that it may be handed to coroutines.
struct BackupRequest {
    BackupRequest(const Uuid& of, std::uint32_t uid) : vm(of), owner_uid(uid) {}

    Uuid vm;
    std::uint32_t owner_uid;
    BackupKind kind = BackupKind::full;
    std::string since;                       ///< a checkpoint; empty: of an incremental one, the last one
    std::optional<std::vector<Uuid>> disks;  ///< none: all of the VM, or of the snapshot
    Uuid snapshot;                           ///< nil: the disks as they are now
    std::optional<QuiesceMode> quiesce;      ///< none: automatic
    std::optional<async::Clock::duration> freeze_timeout;
    std::string checkpoint;  ///< name of the new one; empty: none
    bool require_incremental = false;
    std::optional<std::uint32_t> allowed_uid;  ///< who may connect, where that is not the owner
    std::string caller;                        ///< a name on the bus whose vanishing ends it; empty: none
    std::optional<PushTarget> push;            ///< none: it is read over NBD
    std::uint64_t speed = 0;                   ///< bytes a second that are pushed; 0: without limit
};

/// InvalidArgument where the options do not go together, Unsupported where this daemon cannot do it.
void check_backup_request(const Catalog& catalog, const BackupRequest& request);

/// A part of what is backed up: of a snapshot, the volume is the snapshot's, else the active one.
struct WantedDisk {
    Uuid disk;
    Uuid volume;
};
[[nodiscard]] std::vector<WantedDisk> disks_to_back_up(const Catalog& catalog, const BackupRequest& request);

/// The bitmaps that changes are to be known by; empty: of a full backup, or there are none.
[[nodiscard]] std::string bitmap_since(const Engine& engine, const BackupRequest& request);
/// Those of the new checkpoint; empty: of none. AlreadyExists where there is one of that name.
[[nodiscard]] std::string new_bitmap(const Engine& engine, const BackupRequest& request);

}  // namespace volchain::storage
