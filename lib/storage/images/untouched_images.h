// SPDX-License-Identifier: MIT
//
// Whether the images of a VM that is down, which a backup shows, are still as they were when it began (image_stamp.h).
#pragma once

#include "storage/engine.h"

namespace volchain::storage {

/// Throws QemuFailed where something was written to one of them, another error where that cannot be told.
async::Task<> check_untouched(Engine& engine, BackupRecord record);

/// Returns as soon as something was written to one of them, however long that takes.
async::Task<> until_touched(Engine& engine, BackupRecord record);

}  // namespace volchain::storage
