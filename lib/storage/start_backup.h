// SPDX-License-Identifier: MIT
//
// The operation that begins a backup of a running VM: one moment of its disks is held and can be read over NBD while the
// guest runs on, with what has changed since a checkpoint, and a new checkpoint of that moment. In push mode it is all of the
// backup: QEMU writes the files itself (push_backup.h), and when the job ends nothing is held any more.
//
// What of a disk's changes is not known, for whatever reason, makes the backup of that disk a full one, and is said.
//
// Steps: files (scratch images), nodes, freeze, hold (the moment), thaw, filters, readers; server, finish; or of push: copy,
// publish (the files get their names), end. What fails on the way, or is broken off by a crash, is undone: nothing is left of it, and the checkpoint neither. From publish on it is finished.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "storage/engine.h"
#include "storage/push_backup.h"
#include "storage/quiesce.h"

namespace volchain::storage {

struct BackupRequest {
    BackupRequest(const Uuid& of, std::uint32_t uid) : vm(of), owner_uid(uid) {}

    Uuid vm;
    std::uint32_t owner_uid;
    BackupKind kind = BackupKind::full;
    std::string since;                       ///< a checkpoint; empty: of an incremental one, the last one
    std::optional<std::vector<Uuid>> disks;  ///< none: all of the VM
    QuiesceMode quiesce = QuiesceMode::automatic;
    std::optional<async::Clock::duration> freeze_timeout;
    std::string checkpoint;  ///< name of the new one; empty: none
    bool require_incremental = false;
    std::optional<std::uint32_t> allowed_uid;  ///< who may connect, where that is not the owner
    std::string caller;                        ///< a name on the bus whose vanishing ends it; empty: none
    std::optional<PushTarget> push;            ///< none: it is read over NBD
    std::uint64_t speed = 0;                   ///< bytes a second that are pushed; 0: without limit
};

/// The job's id. Its result: "backup", or of push "files" and "checkpoint"; "quiesce", "frozen-usec" and "hold-usec" as of a snapshot.
async::Task<Uuid> start_backup(Engine& engine, BackupRequest request);

async::Task<> recover_start_backup(Engine& engine, JobPtr job);
[[nodiscard]] std::vector<ObjectId> locks_of_start_backup(const JobRecord& job);

}  // namespace volchain::storage
