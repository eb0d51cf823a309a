// SPDX-License-Identifier: MIT
//
// MapVolume: which parts of a disk have data, as seen through a volume and all that it stands on, by the tables of the
// images alone. For backup tools, which need not read the rest.
#pragma once

#include <string_view>
#include <vector>

#include "storage/qemu/open_chain.h"

namespace volchain::storage {

/// Of one answer.
inline constexpr std::size_t max_map_extents = 32768;

/// "data", "zero" (reads as zeroes), "hole" (no volume of the chain says anything: reads as zeroes, too).
[[nodiscard]] std::string_view kind_word(qcow2::LayerKind kind) noexcept;

/// The extents from `start` on, without gaps; for a `length` of 0 up to the end of the disk. They may end earlier, after
/// max_map_extents or a second of reading: the caller goes on where the last one ends. None only where there is nothing to
/// map. Where a running VM writes to the volume, what it wrote before the call is in it.
async::Task<std::vector<qcow2::ChainExtent>> map_volume(Engine& engine, Uuid volume, std::uint64_t start,
                                                        std::uint64_t length);

}  // namespace volchain::storage
