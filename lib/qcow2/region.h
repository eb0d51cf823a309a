// SPDX-License-Identifier: MIT
//
// Checks on where the structures of an image lie. Internal to this library.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "qcow2/header.h"

namespace volchain::qcow2 {

struct NamedRegion {
    std::string_view what;  // a literal
    Region region;
};

/// CorruptImage unless `region` begins on a cluster boundary behind the header's cluster and ends within
/// the file. A region without bytes is nowhere: only its offset has to be aligned, as QEMU asks for it.
void check_region(const NamedRegion& named, std::uint64_t cluster_size, std::uint64_t file_size);

/// CorruptImage if two of them have a byte in common.
void check_disjoint(std::vector<NamedRegion> regions);

}  // namespace volchain::qcow2
