// SPDX-License-Identifier: MIT
#include "qcow2/image_size.h"

#include <algorithm>

#include "qcow2/limits.h"

namespace volchain::qcow2 {
namespace {

constexpr std::uint64_t refcount_bytes = 2;

std::uint64_t rounded_up(std::uint64_t value, std::uint64_t to) {
    return divide_up(value, to) * to;
}

/// Of the refcount table and blocks for so many clusters, and for themselves.
std::uint64_t refcount_clusters(std::uint64_t others, std::uint64_t cluster_size) {
    std::uint64_t blocks = 0;
    std::uint64_t table = 0;
    while (true) {
        const std::uint64_t more_blocks = divide_up(others + blocks + table, cluster_size / refcount_bytes);
        const std::uint64_t more_table = divide_up(more_blocks, cluster_size / table_entry_bytes);
        if (more_blocks == blocks && more_table == table) return blocks + table;
        blocks = more_blocks;
        table = more_table;
    }
}

}  // namespace

std::uint64_t full_image_bytes(std::uint64_t virtual_size, const ImageShape& shape) {
    const std::uint64_t entry_bytes = shape.extended_l2 ? 2 * table_entry_bytes : table_entry_bytes;
    const std::uint64_t data = divide_up(virtual_size, shape.cluster_size);
    const std::uint64_t l2 = divide_up(data, shape.cluster_size / entry_bytes);
    const std::uint64_t l1 = divide_up(l2 * table_entry_bytes, shape.cluster_size);
    const std::uint64_t all = 1 + l1 + l2 + data;  // the header has one
    return (all + refcount_clusters(all, shape.cluster_size)) * shape.cluster_size;
}

std::uint64_t bitmap_bytes(const std::vector<BitmapShape>& bitmaps, std::uint64_t virtual_size,
                           const ImageShape& shape) {
    std::uint64_t bytes = 0;
    std::uint64_t directory = 0;
    for (const BitmapShape& bitmap : bitmaps) {
        const std::uint64_t bits = divide_up(virtual_size, bitmap.granularity);
        const std::uint64_t clusters = divide_up(divide_up(bits, 8), shape.cluster_size);
        bytes += clusters * shape.cluster_size + rounded_up(clusters * table_entry_bytes, shape.cluster_size);
        directory += rounded_up(bitmap_entry_bytes + bitmap.name_bytes, 8);
    }
    return bytes + rounded_up(directory, shape.cluster_size);
}

void ClusterCounter::add(const ChainExtent& extent) {
    const std::uint64_t begin = std::max(extent.offset / cluster_size_, counted_to_);
    const std::uint64_t end = divide_up(extent.offset + extent.length, cluster_size_);
    if (begin >= end) return;
    clusters_ += end - begin;
    counted_to_ = end;
}

}  // namespace volchain::qcow2
