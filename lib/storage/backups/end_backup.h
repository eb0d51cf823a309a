// SPDX-License-Identifier: MIT
//
// The operation that ends a backup: finishes it, where it was good to the end; aborts it; or does away with one that has failed.
//
// Steps: check (of finish: whether the moment was held to the end; where not, it becomes fail), end (exports; filters and server of
// a running VM), drop (of abort and fail: the new checkpoint), remove (sockets and scratch images), finish. Each can be done again;
// after a crash the operation is carried on. A restore is ended otherwise (end_restore.h).
#pragma once

#include <string>

#include "storage/engine.h"

namespace volchain::storage {

/// The job's id. Result: "checkpoint", where there is a new one; of a restore "disk" and "volume".
async::Task<Uuid> finish_backup(Engine& engine, Uuid id, std::uint32_t owner_uid);
/// The job's id. Result: nothing.
async::Task<Uuid> abort_backup(Engine& engine, Uuid id, std::uint32_t owner_uid);
async::Task<Uuid> fail_backup(Engine& engine, Uuid id, std::string why, std::uint32_t owner_uid);

/// Throws QemuFailed where a backup does not show its moment any more, another error where that cannot be told now.
async::Task<> check_moment(Engine& engine, BackupRecord record);

/// Does away with all that a backup consists of, and, where `drop` says so, with its checkpoint. The records stay.
async::Task<> dismantle_backup(Engine& engine, BackupRecord record, bool drop);
/// The records of its exports go.
[[nodiscard]] Changes without_exports_of(const Catalog& catalog, const Uuid& backup);

/// The end of a job that could not take all of a backup, or a restore, away: its record stays, to be aborted again.
async::Task<> leave_undone(Engine& engine, JobPtr job, Error reason);

async::Task<> recover_end_backup(Engine& engine, JobPtr job);
[[nodiscard]] std::vector<ObjectId> locks_of_end_backup(const JobRecord& job);

}  // namespace volchain::storage
