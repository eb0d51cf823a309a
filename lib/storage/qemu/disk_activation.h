// SPDX-License-Identifier: MIT
//
// What a migration leaves behind in a QEMU whose guest stands still: its images are "inactive", given up to the QEMU that
// was to go on with them, unlocked, and any block job on them ends it (an assertion in block/io.c). "cont" takes them back;
// a guest that is to stand still needs another way.
#pragma once

#include <memory>

#include "qmp/session.h"

namespace volchain::storage {

/// Takes the images back, where the machine's memory was written and the guest has not run since (run state "postmigrate", which
/// is waited for). Throws where QEMU could not.
async::Task<> activate_disks(std::shared_ptr<qmp::Session> session, async::Deadline deadline);

}  // namespace volchain::storage
