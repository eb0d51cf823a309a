// SPDX-License-Identifier: MIT
//
// The file of a volume copied as it is, with all that an image holds (backing file's name, bitmaps, snapshots inside): as a
// reflink where the file system has that, else by a mirror in a storage daemon of its own. What a volume shows through the
// layers below is copy_volume.h's. Nothing may write to the volume meanwhile; the caller sees to that, and removes what was
// made where it comes to nothing.
#pragma once

#include "storage/volumes/new_image.h"

namespace volchain::storage {

/// Makes `target`, which whatever may open the source may open. `done_before`, `total`: bytes of the whole operation, for
/// progress. When this returns the copy is on the medium.
async::Task<> copy_file(Engine& engine, JobPtr job, Uuid source, NewFile target, std::uint64_t done_before,
                        std::uint64_t total);

/// FICLONE of a file in a pool's directory into one that is there; false where the file systems do not do that. Blocking.
/// InUse where a process has the source open for writing.
[[nodiscard]] bool reflink_file(const std::string& pool, const std::string& file, const NewFile& target);

}  // namespace volchain::storage
