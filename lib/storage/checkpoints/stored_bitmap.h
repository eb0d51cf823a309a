// SPDX-License-Identifier: MIT
//
// A new persistent bitmap in an image that nobody has open: a storage daemon opens it for writing for that moment, under QEMU's own
// locks, adds the bitmap, and closes the image, which is when bitmaps are stored. The opposite is drop_bitmap().
#pragma once

#include <string>

#include "storage/engine.h"

namespace volchain::storage {

/// For operations that hold the lock of the disk. InUse where a process has the image open for writing; where there is no room for
/// the bitmap, NoSpace: QEMU says so of no bitmap that it cannot store, but leaves it out.
async::Task<> add_stored_bitmap(Engine& engine, Uuid volume, std::string bitmap);

}  // namespace volchain::storage
