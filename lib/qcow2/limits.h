// SPDX-License-Identifier: MIT
//
// Numbers of the qcow2 format: the magic, the feature bits, and the limits that the reader and the
// writer hold images to. Limits marked QEMU are those of QEMU's own driver, beyond which it refuses an
// image; the others are ours, and keep what one image can make us read or remember to a few MiB.
#pragma once

#include <cstddef>
#include <cstdint>

namespace volchain::qcow2 {

inline constexpr std::uint32_t magic = 0x514649fb;  // "QFI\xfb"

// Specification, "Header".
inline constexpr std::uint32_t header_bytes_v2 = 72;
inline constexpr std::uint32_t min_header_bytes_v3 = 104;
inline constexpr std::uint32_t compression_type_offset = 104;
inline constexpr std::uint32_t min_cluster_bits = 9;
inline constexpr std::uint32_t min_cluster_bits_extended_l2 = 14;
inline constexpr std::uint32_t max_cluster_bits = 21;  // QEMU
inline constexpr std::uint32_t max_refcount_order = 6;
inline constexpr std::uint32_t max_backing_name_bytes = 1023;
inline constexpr std::uint64_t sector_bytes = 512;
inline constexpr std::uint64_t table_entry_bytes = 8;  // of the L1, refcount and bitmap tables

/// How many clusters, blocks or bytes of `by` hold `value`.
constexpr std::uint64_t divide_up(std::uint64_t value, std::uint64_t by) {
    return value / by + (value % by != 0 ? 1 : 0);
}

// Bits of incompatible_features, compatible_features and autoclear_features.
inline constexpr std::uint64_t incompatible_dirty = 1U << 0;
inline constexpr std::uint64_t incompatible_corrupt = 1U << 1;
inline constexpr std::uint64_t incompatible_data_file = 1U << 2;
inline constexpr std::uint64_t incompatible_compression = 1U << 3;
inline constexpr std::uint64_t incompatible_extended_l2 = 1U << 4;
inline constexpr std::uint64_t compatible_lazy_refcounts = 1U << 0;
inline constexpr std::uint64_t autoclear_bitmaps = 1U << 0;
inline constexpr std::uint64_t autoclear_raw_data_file = 1U << 1;

// Specification, "Header extensions".
inline constexpr std::uint32_t extension_end = 0;
inline constexpr std::uint32_t extension_backing_format = 0xe2792aca;
inline constexpr std::uint32_t extension_feature_names = 0x6803f857;
inline constexpr std::uint32_t extension_bitmaps = 0x23852875;
inline constexpr std::uint32_t extension_encryption = 0x0537be77;
inline constexpr std::uint32_t extension_data_file = 0x44415441;
/// Ours ("volc"): Header::label. QEMU keeps extensions that it does not know.
inline constexpr std::uint32_t extension_label = 0x766f6c63;
inline constexpr std::uint32_t max_label_bytes = 1023;
inline constexpr std::uint32_t max_backing_format_bytes = 15;  // QEMU
inline constexpr std::uint32_t max_data_file_name_bytes = 4095;
inline constexpr std::uint32_t feature_name_entry_bytes = 48;
inline constexpr std::uint32_t max_feature_names = 3 * 64;  // one for each bit there is

inline constexpr std::uint64_t max_l1_bytes = 32U << 20;             // QEMU
inline constexpr std::uint64_t max_refcount_table_bytes = 8U << 20;  // QEMU

// Specification, "Cluster mapping". The offset is in L1 entries and L2 entries that are not compressed.
inline constexpr std::uint64_t table_offset_bits = 0x00fffffffffffe00;
inline constexpr std::uint64_t table_entry_copied = std::uint64_t{1} << 63;  // not shared with a snapshot
inline constexpr std::uint64_t l1_reserved_bits = 0x7f000000000001ff;
inline constexpr std::uint64_t l2_compressed = std::uint64_t{1} << 62;
inline constexpr std::uint64_t l2_zero = 1U << 0;
inline constexpr std::uint64_t l2_reserved_bits = 0x3f000000000001fe;  // of entries not compressed

// Specification, "Snapshots".
inline constexpr std::uint32_t max_snapshots = 65536;                // QEMU
inline constexpr std::uint64_t snapshot_entry_bytes = 40;            // without extra data, id and name
inline constexpr std::uint32_t max_snapshot_extra_bytes = 1024;      // QEMU
inline constexpr std::uint64_t max_snapshot_table_bytes = 4U << 20;  // QEMU: 64 MiB

// Specification, "Bitmaps extension" and "Bitmap directory".
inline constexpr std::uint32_t max_bitmaps = 65535;                   // QEMU
inline constexpr std::uint64_t bitmap_entry_bytes = 24;               // without extra data and name
inline constexpr std::uint32_t max_bitmap_name_bytes = 1023;          // QEMU
inline constexpr std::uint32_t min_bitmap_granularity_bits = 9;       // QEMU
inline constexpr std::uint32_t max_bitmap_granularity_bits = 31;      // QEMU
inline constexpr std::uint32_t max_bitmap_table_entries = 0x8000000;  // QEMU
inline constexpr std::uint64_t max_bitmap_bytes = 512U << 20;         // QEMU: what one bitmap takes in memory
inline constexpr std::uint64_t qemu_max_bitmap_directory_bytes = 1024U * max_bitmaps;  // QEMU
inline constexpr std::uint64_t max_bitmap_directory_bytes = 4U << 20;

}  // namespace volchain::qcow2
