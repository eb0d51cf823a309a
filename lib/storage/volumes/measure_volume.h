// SPDX-License-Identifier: MIT
//
// MeasureVolume: how large an image becomes that holds all that is seen through a volume and stands on nothing, before
// anybody makes it. As "qemu-img measure" says, but for images that were preallocated with their metadata alone: of those
// QEMU looks at the holes in the file, and here all counts as data.
#pragma once

#include <optional>

#include "storage/qemu/open_chain.h"

namespace volchain::storage {

struct MeasureRequest {
    VolumeFormat format = VolumeFormat::qcow2;
    std::optional<std::uint64_t> cluster_size;  ///< qcow2 only, as the two below
    bool extended_l2 = false;
    bool bitmaps = false;  ///< with copies of the volume's persistent bitmaps, too
};

struct Measured {
    std::uint64_t required = 0;  ///< bytes of the file
    std::uint64_t full = 0;      ///< when everything in it has been written to
};

/// InvalidArgument where the options do not go together; Timeout where there is too much to read. What a running VM wrote
/// before the call counts.
async::Task<Measured> measure_volume(Engine& engine, Uuid volume, MeasureRequest request);

}  // namespace volchain::storage
