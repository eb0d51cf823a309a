// SPDX-License-Identifier: MIT
//
// CopiedChain: an image that is not ours, with the chain below it, opened with its user's rights and copied byte by byte.
// Our own reader judges each header; no QEMU sees a file before it is a copy, which nobody but us can change any more.
// All calls block: they are for a worker thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "qmp/image_lock.h"
#include "storage/images/image.h"
#include "storage/images/user_rights.h"
#include "storage/volumes/new_image.h"

namespace volchain::storage {

/// One image, open and kept from being written to.
struct ForeignLayer {
    std::string path;
    VolumeFacts facts;
    std::shared_ptr<qmp::ImageLock> image;
    std::uint64_t device = 0;  ///< of the file system
};

/// The layers from the image at `path` (absolute) down to the bottom. They may lie in the directory of that image and below,
/// and in `pools`. Throws what inspect_foreign_image() does, UnsafeImage for a layer elsewhere, AccessDenied for what that
/// user may not read, and InUse for what a process writes to.
[[nodiscard]] std::vector<ForeignLayer> open_foreign_chain(const std::string& path,
                                                           std::optional<VolumeFormat> format,
                                                           const std::vector<std::string>& pools, uid_t user);

/// What copies of the layers take in a pool's directory at most, and what is free there. Where reflinks can be made, those of
/// the same file system take nothing.
struct RoomForCopy {
    std::uint64_t needed = 0;
    std::uint64_t there = 0;
};
[[nodiscard]] RoomForCopy room_for_copy(const std::vector<ForeignLayer>& layers, const std::string& pool,
                                        bool reflinks);

/// Makes `target`, with owner and mode as configured, a reflink of the layer; false where the file systems do not do that,
/// and the file is empty then.
[[nodiscard]] bool start_copy(const ForeignLayer& layer, const NewFile& target, const Settings& settings);

/// Copies what of the layer's data lies at `position` or behind, up to about `length` bytes. The position to go on from,
/// none at the end, where the copy is as long as the layer.
[[nodiscard]] std::optional<std::uint64_t> copy_piece(const ForeignLayer& layer, const NewFile& target,
                                                      std::uint64_t position, std::uint64_t length);

/// Throws where the copy is not the image that was judged: who wrote to it meanwhile did so without QEMU's locks.
void check_copy(const ForeignLayer& layer, const NewFile& target);

}  // namespace volchain::storage
