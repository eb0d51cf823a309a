// SPDX-License-Identifier: MIT
//
// Makes the file of a new overlay beside the image that it will cover. Blocking: run on a worker thread.
#pragma once

#include <cstdint>
#include <string>

#include "storage/records/records.h"

namespace volchain::storage {

/// Which overlay to make. A class with a constructor, so that it may be handed to coroutines.
struct OverlayFile {
    OverlayFile(std::string directory, std::string below, VolumeFormat format_below, std::string name)
        : pool(std::move(directory)),
          parent(std::move(below)),
          parent_format(format_below),
          file(std::move(name)) {}

    std::string pool;    ///< directory
    std::string parent;  ///< the image below, relative to it
    VolumeFormat parent_format;
    std::string file;        ///< the new image, relative to the pool, in the parent's directory
    std::uint64_t size = 0;  ///< of the disk in it; 0: as large as the parent
};

/// The name for an overlay of a volume of `disk`: in the directory of `parent`, made of the disk's name and
/// the id.
[[nodiscard]] std::string overlay_file_name(const std::string& parent, const std::string& disk,
                                            const Uuid& volume);

/// Creates the overlay: O_EXCL and mode 0600 first, then as large as the parent is now, with its cluster
/// size, and its owner, mode, ACL and label; flushed, its directory entry too. On failure nothing is left.
/// Returns the disk's size in bytes.
std::uint64_t create_overlay_file(const OverlayFile& overlay);

/// Whether nothing was ever written to the overlay and it still stands on its parent; true too where it is
/// gone, or was never filled (a power cut in the middle of its creation). Throws where that cannot be told:
/// BrokenChain where the parent is not there either, since then the pool may not be mounted, else the error of
/// looking.
[[nodiscard]] bool overlay_is_pristine(const OverlayFile& overlay);

/// Unlinks an overlay whose creation or use was broken off. `opened`: QEMU may have had it, so it goes only
/// where it is pristine, and no process has it open: InUse otherwise. Nothing happens where it is not there.
/// It is gone for good when this returns.
void remove_new_overlay(const OverlayFile& overlay, bool opened);

}  // namespace volchain::storage
