// SPDX-License-Identifier: MIT
#include "qcow2/layer_map.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <span>

#include "base/error.h"
#include "qcow2/big_endian.h"
#include "qcow2/limits.h"
#include "qcow2/region.h"

namespace volchain::qcow2 {
namespace {

constexpr std::uint64_t l1_piece_bytes = 64U << 10;
constexpr std::uint32_t subcluster_bits = 5;  // 32 of them in a cluster
constexpr std::uint32_t all_subclusters = 0xffffffff;

}  // namespace

std::optional<LayerExtent> LayerMap::next() {
    if (done_ >= virtual_size_) return std::nullopt;
    const LayerExtent extent = at(done_, virtual_size_);
    done_ += extent.length;
    return extent;
}

LayerExtent LayerMap::at(std::uint64_t offset, std::uint64_t end) {
    if (offset < seen_.offset || offset >= seen_.offset + seen_.length) {
        seen_ = piece(offset);
        seen_.length = std::min(seen_.length, virtual_size_ - offset);
        seen_is_whole_ = false;
    }
    while (!seen_is_whole_ && seen_.offset + seen_.length < end) {
        const std::uint64_t reached = seen_.offset + seen_.length;
        const LayerExtent more = piece(reached);
        if (more.kind == seen_.kind && more.in_place == seen_.in_place)
            seen_.length += std::min(more.length, virtual_size_ - reached);
        else
            seen_is_whole_ = true;
    }
    return {offset, std::min(seen_.offset + seen_.length, end) - offset, seen_.kind, seen_.in_place};
}

/// What an L2 entry says: a bit for each subcluster, which are all alike where the image has none.
struct Qcow2LayerMap::Cluster {
    std::uint32_t data = 0;
    std::uint32_t zero = 0;
    bool in_place = false;
};

Qcow2LayerMap::Qcow2LayerMap(const ImageSource& source, const Header& header)
    : LayerMap(header.virtual_size, header.cluster_size()),
      source_(&source),
      l1_table_(header.l1_table),
      cluster_bits_(header.cluster_bits),
      extended_(header.features.extended_l2),
      entry_bits_(extended_ ? 4 : 3),
      table_bits_(cluster_bits_ + cluster_bits_ - entry_bits_),
      reserved_bits_(l2_reserved_bits) {
    if (header.features.external_data_file)
        throw Error(ErrorCode::unsupported, "the image keeps its data in an external data file");
    // Version 2 has no zero clusters, and with extended entries the bitmap says what is zero.
    if (header.version < 3 || extended_) reserved_bits_ |= l2_zero;
}

LayerExtent Qcow2LayerMap::piece(std::uint64_t offset) {
    const std::uint64_t index = offset >> table_bits_;
    if (table_index_ != index) load_table(index);
    if (table_.empty()) return {offset, ((index + 1) << table_bits_) - offset, LayerKind::absent, false};
    const Cluster cluster = cluster_at(offset);
    const std::uint32_t width = cluster_bits_ - subcluster_bits;
    const auto first = static_cast<std::uint32_t>(offset >> width & 31);
    LayerExtent extent{offset, 0, LayerKind::absent, cluster.in_place};
    std::uint32_t alike = ~(cluster.data | cluster.zero);
    if ((cluster.data >> first & 1) != 0) {
        extent.kind = LayerKind::data;
        alike = cluster.data;
    } else if ((cluster.zero >> first & 1) != 0) {
        extent.kind = LayerKind::zero;
        alike = cluster.zero;
    }
    const std::uint64_t begin = offset >> width << width;
    extent.length = begin + (static_cast<std::uint64_t>(std::countr_one(alike >> first)) << width) - offset;
    return extent;
}

std::uint64_t Qcow2LayerMap::l1_entry(std::uint64_t index) {
    const std::uint64_t in_piece = index - l1_piece_begin_;
    if (l1_piece_.empty() || index < l1_piece_begin_ || in_piece >= l1_piece_.size() / table_entry_bytes) {
        const std::uint64_t begin = index * table_entry_bytes;
        l1_piece_.resize(static_cast<std::size_t>(std::min(l1_piece_bytes, l1_table_.bytes - begin)));
        source_->read(l1_piece_, l1_table_.offset + begin);
        l1_piece_begin_ = index;
    }
    return load_be<std::uint64_t>(std::span(l1_piece_).subspan(
        static_cast<std::size_t>((index - l1_piece_begin_) * table_entry_bytes)));
}

void Qcow2LayerMap::load_table(std::uint64_t index) {
    table_index_ = index;
    table_.clear();
    const std::uint64_t entry = l1_entry(index);
    if ((entry & l1_reserved_bits) != 0)
        throw Error(ErrorCode::corrupt_image, "the L1 entry {} has reserved bits set: {:#x}", index, entry);
    const Region region{entry & table_offset_bits, cluster_size()};
    if (region.offset == 0) return;
    file_size_ = source_->size();
    try {
        check_region({"L2 table", region}, cluster_size(), file_size_);
    } catch (const Error& error) {
        throw error.during(fmt::format("the L1 entry {} is wrong", index));
    }
    // No table belongs to two entries, so together they fit into the file. Without this an image of some MiB
    // could have its one table read millions of times.
    tables_bytes_ += region.bytes;
    if (tables_bytes_ > file_size_)
        throw Error(
            ErrorCode::corrupt_image,
            "the L1 entries up to {} have more L2 tables than there is room for in the file of {} bytes",
            index, file_size_);
    table_.resize(static_cast<std::size_t>(region.bytes));
    source_->read(table_, region.offset);
    // QEMU writes data before the entry that points to it.
    file_size_ = source_->size();
}

/// Specification, "Cluster mapping" and "Extended L2 Entries".
Qcow2LayerMap::Cluster Qcow2LayerMap::cluster_at(std::uint64_t offset) const {
    const std::uint64_t slot = (offset & ((std::uint64_t{1} << table_bits_) - 1)) >> cluster_bits_;
    const auto bytes = std::span(table_).subspan(static_cast<std::size_t>(slot << entry_bits_));
    const auto entry = load_be<std::uint64_t>(bytes);
    const std::uint64_t bitmap = extended_ ? load_be<std::uint64_t>(bytes.subspan(8)) : 0;
    if ((entry & l2_compressed) != 0) {
        check_compressed(offset, entry, bitmap);
        return {all_subclusters, 0, false};
    }
    const std::uint64_t host = entry & table_offset_bits;
    if ((entry & reserved_bits_) != 0)
        throw Error(ErrorCode::corrupt_image,
                    "the L2 entry of the cluster at {} of the disk has reserved bits set: {:#x}", offset,
                    entry);
    if (host % cluster_size() != 0)
        throw Error(
            ErrorCode::corrupt_image,
            "the cluster at {} of the disk is at offset {}, not on a boundary of the {}-byte clusters",
            offset, host, cluster_size());
    Cluster cluster;
    cluster.in_place = host != 0 && (entry & table_entry_copied) != 0;
    if (extended_) {
        cluster.data = static_cast<std::uint32_t>(bitmap);
        cluster.zero = static_cast<std::uint32_t>(bitmap >> 32);
        if ((cluster.data & cluster.zero) != 0 || (host == 0 && cluster.data != 0))
            throw Error(ErrorCode::corrupt_image,
                        "the subclusters of the cluster at {} of the disk cannot be so: {:#x} at offset {}",
                        offset, bitmap, host);
    } else if ((entry & l2_zero) != 0) {
        cluster.zero = all_subclusters;
    } else if (host != 0) {
        cluster.data = all_subclusters;
    }
    if (cluster.data != 0) check_in_file(offset, host);
    return cluster;
}

/// Compressed data begins at any byte, and the last sector of it may end behind the file's end.
void Qcow2LayerMap::check_compressed(std::uint64_t offset, std::uint64_t entry, std::uint64_t bitmap) const {
    if (bitmap != 0)
        throw Error(ErrorCode::corrupt_image,
                    "the cluster at {} of the disk is compressed and has subclusters: {:#x}", offset, bitmap);
    const std::uint32_t offset_bits = 62 - (cluster_bits_ - 8);
    check_in_file(offset, entry & ((std::uint64_t{1} << offset_bits) - 1));
}

void Qcow2LayerMap::check_in_file(std::uint64_t offset, std::uint64_t host) const {
    if (host < cluster_size() || host >= file_size_)
        throw Error(ErrorCode::corrupt_image,
                    "the cluster at {} of the disk is at offset {}, not between the header's cluster and the "
                    "end of the file of {} bytes",
                    offset, host, file_size_);
}

}  // namespace volchain::qcow2
