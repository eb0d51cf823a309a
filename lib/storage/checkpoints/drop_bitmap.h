// SPDX-License-Identifier: MIT
//
// Takes a bitmap away from disks: from the active layers of a running VM by its QEMU, all at once; from images that no VM has
// open by a storage daemon each. What a running VM has open without writing to it stays as it is: QEMU can change no bitmaps
// there. The same for images that somebody else has open. Such a remnant is no recording, as the layer above has none.
//
// For operations that hold the locks of the disks. It can be done again and again.
#pragma once

#include <string>
#include <vector>

#include "storage/engine.h"

namespace volchain::storage {

/// `live`: whether the VM runs, in whose QEMU the disks are. The paths of the images in which it stays, for now.
async::Task<std::vector<std::string>> drop_bitmap(Engine& engine, Uuid vm, bool live, std::vector<Uuid> disks,
                                                  std::string bitmap);

}  // namespace volchain::storage
