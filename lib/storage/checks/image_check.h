// SPDX-License-Identifier: MIT
//
// ImageCheck: the inside of one image of a disk, as "qemu-img check" sees it: damage, and clusters that nothing refers to.
// Only an image that nobody writes to is looked at, and it is locked meanwhile (volume_lock.h): what an image looks like
// while a guest writes to it means nothing. The image alone is opened, as its owner, with its format given.
#pragma once

#include "storage/checks/disk_view.h"
#include "storage/checks/finding.h"

namespace volchain::storage {

/// What there is to be checked of it: bytes, for progress; 0: nothing (a raw image, one that is damaged already).
[[nodiscard]] std::uint64_t checkable_bytes(const Catalog& catalog, const DiskView& view, const Uuid& volume);

/// A look at one volume of the disk; what stood against it is a finding, too. `look`: as of the DiskView. `open_in_vm`:
/// the guest writes to it. Cancelled at any point.
[[nodiscard]] async::Task<Findings> check_image(Engine& engine, Uuid volume, VolumeLook look,
                                                bool open_in_vm);

/// What the report says of the image; none where all is well. `look`: whether the leaks can be freed now.
[[nodiscard]] Findings read_image_report(const Catalog& catalog, const Uuid& volume, const VolumeLook& look,
                                         const Json& report);

/// Frees the leaked clusters of an image that nobody has open: qemu-img locks it itself.
async::Task<> free_leaks(Engine& engine, Uuid volume);

}  // namespace volchain::storage
