// SPDX-License-Identifier: MIT
//
// How large the file of a new qcow2 image becomes, by what is put into it: as "qemu-img measure" has it
// (qcow2_measure() in block/qcow2.c). Metadata is counted as if everything were allocated.
#pragma once

#include <cstdint>
#include <vector>

#include "qcow2/chain_map.h"

namespace volchain::qcow2 {

/// What decides the size of an image's tables. Refcounts have 16 bits, as QEMU makes them.
struct ImageShape {
    std::uint64_t cluster_size = 65536;
    bool extended_l2 = false;
};

/// Of an image in which all is allocated. The shape is one that empty_image() accepts for that size.
[[nodiscard]] std::uint64_t full_image_bytes(std::uint64_t virtual_size, const ImageShape& shape);

/// One that will be copied along.
struct BitmapShape {
    std::uint64_t name_bytes = 0;
    std::uint64_t granularity = 0;
};
/// What persistent bitmaps take beyond that, with every bit stored.
[[nodiscard]] std::uint64_t bitmap_bytes(const std::vector<BitmapShape>& bitmaps, std::uint64_t virtual_size,
                                         const ImageShape& shape);

/// Counts the clusters that data takes.
class ClusterCounter {
  public:
    explicit ClusterCounter(std::uint64_t cluster_size) noexcept : cluster_size_(cluster_size) {}
    /// In ascending order.
    void add(const ChainExtent& extent);
    [[nodiscard]] std::uint64_t bytes() const noexcept { return clusters_ * cluster_size_; }

  private:
    std::uint64_t cluster_size_;
    std::uint64_t clusters_ = 0;
    std::uint64_t counted_to_ = 0;  // in clusters
};

}  // namespace volchain::qcow2
