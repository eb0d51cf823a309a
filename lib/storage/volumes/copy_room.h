// SPDX-License-Identifier: MIT
//
// The room that copies of volumes take of their file systems, known before the first byte is written: what allocated data
// there is bounds it, and where that is too much, it is measured (measure_volume.h). What can be a reflink takes none.
#pragma once

#include <vector>

#include "storage/volumes/copy_volume.h"

namespace volchain::storage {

/// Throws NoSpace, naming the directory, where there is not enough room for all of them.
async::Task<> check_room_for_copies(Engine& engine, std::vector<CopyOrder> orders);

}  // namespace volchain::storage
