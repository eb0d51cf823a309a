// SPDX-License-Identifier: MIT
//
// volchainctl backup restore: disks from a moment in a directory of backup run, or from an image that was pushed, into a pool;
// and, where all of a VM is restored, a new VM with its configuration of that moment and the disks. It is all there at the
// end, or nothing of it is.
#pragma once

#include <vector>

#include "client/session.h"

namespace volchain::client {

async::Task<> restore_backup(Session& session, Arguments arguments);
[[nodiscard]] std::vector<Option> restore_backup_options();

}  // namespace volchain::client
