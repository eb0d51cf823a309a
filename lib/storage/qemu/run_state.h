// SPDX-License-Identifier: MIT
//
// The run state of a QEMU (QAPI RunState, query-status): what it says of itself, beside what its events say of the guest.
#pragma once

#include <memory>
#include <string>

#include "qmp/session.h"

namespace volchain::storage {

async::Task<std::string> run_state(std::shared_ptr<qmp::Session> session, async::Deadline deadline);

/// The same, after a migration. It stays "finish-migrate" for a moment longer than the migration is "completed" (QEMU 7.2:
/// migration_iteration_finish()); until then QEMU refuses "cont", and nothing is said when that is over. Timeout at the
/// deadline.
async::Task<std::string> run_state_after_migration(std::shared_ptr<qmp::Session> session,
                                                   async::Deadline deadline);

}  // namespace volchain::storage
