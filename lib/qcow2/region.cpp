// SPDX-License-Identifier: MIT
#include "qcow2/region.h"

#include <algorithm>
#include <limits>

#include "base/error.h"

namespace volchain::qcow2 {

void check_region(const NamedRegion& named, std::uint64_t cluster_size, std::uint64_t file_size) {
    const auto& [what, region] = named;
    if (region.offset % cluster_size != 0)
        throw Error(ErrorCode::corrupt_image,
                    "the {} begins at offset {}, not on a boundary of the {}-byte clusters", what,
                    region.offset, cluster_size);
    if (region.bytes == 0 && region.offset <= std::numeric_limits<std::int64_t>::max()) return;
    if (region.offset < cluster_size)
        throw Error(ErrorCode::corrupt_image, "the {} begins at offset {}, inside the header's cluster", what,
                    region.offset);
    if (region.offset > file_size || region.bytes > file_size - region.offset)
        throw Error(ErrorCode::corrupt_image,
                    "the {} of {} bytes at offset {} does not lie within the file of {} bytes", what,
                    region.bytes, region.offset, file_size);
}

void check_disjoint(std::vector<NamedRegion> regions) {
    std::erase_if(regions, [](const NamedRegion& named) { return named.region.bytes == 0; });
    std::sort(regions.begin(), regions.end(),
              [](const NamedRegion& a, const NamedRegion& b) { return a.region.offset < b.region.offset; });
    for (std::size_t i = 1; i < regions.size(); ++i) {
        const NamedRegion& lower = regions[i - 1];
        const NamedRegion& upper = regions[i];
        if (upper.region.offset - lower.region.offset < lower.region.bytes)
            throw Error(ErrorCode::corrupt_image,
                        "the {} ({} bytes at offset {}) and the {} (at offset {}) lie over each other",
                        lower.what, lower.region.bytes, lower.region.offset, upper.what, upper.region.offset);
    }
}

}  // namespace volchain::qcow2
