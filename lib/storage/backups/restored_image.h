// SPDX-License-Identifier: MIT
//
// The image of a disk that is being restored: where it lies, and how a storage daemon has it open: for writing by who restores it,
// until nothing is to be written any more. It has no record of its own but that of the restore.
#pragma once

#include <memory>
#include <string>

#include "storage/volumes/new_image.h"

namespace volchain::storage {

[[nodiscard]] NewFile file_of_restored(const Catalog& catalog, const RestoredDisk& disk);

/// Opens it for writing; what nobody has written or has discarded takes no room, unless the image was preallocated. The name of the
/// node to be shown.
async::Task<std::string> open_restored_image(Engine& engine, std::shared_ptr<qmp::Session> session,
                                             RestoredDisk disk);

/// Nobody writes to it from now on, and all that was written is in the file, as QEMU says: the image is opened anew for reading,
/// which flushes it (bdrv_reopen_prepare() in block.c). It can be done again. Its export must have gone before.
async::Task<> make_restored_read_only(Engine& engine, std::shared_ptr<qmp::Session> session,
                                      RestoredDisk disk);

/// Throws CorruptImage where the image, which nobody has open, is not what it should be, and tells what it is.
async::Task<VolumeFacts> check_restored_image(Engine& engine, RestoredDisk disk);

}  // namespace volchain::storage
