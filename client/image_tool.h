// SPDX-License-Identifier: MIT
//
// qemu-img, for the images that backups are kept in. It runs with limits, may touch the image alone, and is told its format.
// Backing files are never opened: what stands on what is known otherwise.
#pragma once

#include <optional>
#include <string>

#include "async/process.h"

namespace volchain::client {

/// What the header of an image says.
struct ImageInfo {
    std::uint64_t size = 0;  ///< of the disk
    std::uint64_t cluster_bytes = 0;
    std::string backing;  ///< as written; empty: none
    std::string backing_format;
    bool data_file = false;  ///< its data is in another file
};

/// What a look at its tables finds.
struct ImageReport {
    std::uint64_t corruptions = 0;
    std::uint64_t leaks = 0;  ///< clusters; only room is lost
    std::uint64_t errors = 0;
};

/// Makes an empty image of an empty file. `backing`: as it is to stand in the header; empty: none.
async::Task<> create_image(std::string path, std::uint64_t size, std::string backing);
/// Throws CorruptImage where it is no qcow2 image.
async::Task<ImageInfo> image_info(std::string path);
async::Task<ImageReport> check_image(std::string path);

}  // namespace volchain::client
