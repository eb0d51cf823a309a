// SPDX-License-Identifier: MIT
//
// The directory of persistent bitmaps: which dirty bitmaps an image holds and in which state they are.
// The bits themselves are not read.
//
// A directory of more than 4 MiB (some 4,000 bitmaps with the longest names, 100,000 with short ones;
// QEMU's limit is 64 MiB) is refused with Unsupported.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "qcow2/header.h"

namespace volchain::qcow2 {

struct Bitmap {
    std::string name;               // bytes, 1 to 1023
    std::uint64_t granularity = 0;  // bytes of the disk for one bit
    /// A program had it open for writing and did not save it: the bits are worth nothing. Also so while
    /// a VM has it.
    bool in_use = false;
    /// It records: whoever writes to the image has to mark what it writes. ("auto" in the specification.)
    bool recording = false;
    Region table;
};

/// The bitmaps of the image that `header` was read from, in the order of the directory; none where the
/// image has no bitmaps or its header calls them stale. CorruptImage where one entry is wrong,
/// Unsupported where one is of a kind (type, extra data, flags) that QEMU 7.2 refuses too: QEMU does not
/// open such an image at all.
[[nodiscard]] std::vector<Bitmap> read_bitmaps(const ImageSource& source, const Header& header);

}  // namespace volchain::qcow2
