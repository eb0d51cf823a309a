// SPDX-License-Identifier: MIT
//
// Recovery: what becomes of the jobs that an earlier life of the daemon left in the middle. Each operation
// knows itself how to go on or back; here is the table of which operation that is.
#pragma once

#include "storage/engine.h"

namespace volchain::storage {

/// Takes the locks of all unfinished jobs and starts their recovery.
void resume_unfinished_jobs(Engine& engine);

/// Returns when each of the resumed jobs has ended or goes on with copying, or at the deadline; those that have not ended go on
/// in the background.
async::Task<> wait_for_recovery(Engine& engine, async::Deadline deadline);

}  // namespace volchain::storage
