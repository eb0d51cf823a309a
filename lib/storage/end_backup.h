// SPDX-License-Identifier: MIT
//
// The operations that end a backup: finish (it is good: its new checkpoint holds), abort (nothing of it stays), and fail (as
// abort, but what became of it can still be asked).
//
// Steps: check (of finish: whether the moment was held to the end; where not, it becomes fail), end (exports, filters,
// server), drop (of abort and fail: the new checkpoint), remove (sockets and scratch images), finish. Each can be done again;
// after a crash the operation is carried on.
#pragma once

#include <string>

#include "storage/engine.h"

namespace volchain::storage {

/// The job's id. Result: "checkpoint", where there is a new one.
async::Task<Uuid> finish_backup(Engine& engine, Uuid id, std::uint32_t owner_uid);
/// The job's id. Result: nothing.
async::Task<Uuid> abort_backup(Engine& engine, Uuid id, std::uint32_t owner_uid);
async::Task<Uuid> fail_backup(Engine& engine, Uuid id, std::string why, std::uint32_t owner_uid);

/// Does away with all that a backup consists of, and, where `drop` says so, with its checkpoint. The record stays.
async::Task<> dismantle_backup(Engine& engine, BackupRecord record, bool drop);

async::Task<> recover_end_backup(Engine& engine, JobPtr job);
[[nodiscard]] std::vector<ObjectId> locks_of_end_backup(const JobRecord& job);

}  // namespace volchain::storage
