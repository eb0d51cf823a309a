// SPDX-License-Identifier: MIT
//
// The operations on schedules: made, changed, removed; and what follows from their records without a look at the clock.
#pragma once

#include "storage/engine.h"

namespace volchain::storage {

/// Makes a schedule for the VM; `edit` sets it up. Its first run is the first one due from now on.
async::Task<Uuid> create_schedule(Engine& engine, Uuid vm, Scheduler::Edit edit);
/// What was not changed stays; another calendar counts from now on.
async::Task<> update_schedule(Engine& engine, Uuid schedule, Scheduler::Edit edit);
/// What it made stays, and is nobody's to remove but the user's.
async::Task<> delete_schedule(Engine& engine, Uuid schedule);

[[nodiscard]] std::string scheduled_snapshot_name(const Catalog& catalog, const ScheduleRecord& schedule,
                                                  Timestamp at);

/// Of the schedule's own snapshots the oldest that have to go for the chains to be no longer than it says; `going`, which
/// go in any case, count. The newest always stays.
[[nodiscard]] std::vector<Uuid> over_length(const Catalog& catalog, const ScheduleRecord& schedule,
                                            std::vector<KeptCandidate> own, const std::vector<Uuid>& going);

}  // namespace volchain::storage
