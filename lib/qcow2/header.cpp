// SPDX-License-Identifier: MIT
//
// Where this is stricter than QEMU 7.2, and why:
// - Every table must lie within the file, behind the first cluster, and apart from the others. QEMU
//   reads what lies beyond the end as zeroes, so that a truncated image looks empty to it.
// - The header length is a multiple of 8 and the backing file name does not begin inside the header, as
//   specified.
// - The virtual size is a multiple of 512 bytes; QEMU silently drops the rest of the last sector.
// - Names hold no NUL: QEMU would take what is before it, and so see another file than we do.
// - The bitmaps bit needs the bitmaps extension, raw external data needs an external data file and no backing
//   file, as specified.
#include "qcow2/header.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "qcow2/cursor.h"
#include "qcow2/extensions.h"
#include "qcow2/limits.h"
#include "qcow2/region.h"

namespace volchain::qcow2 {
namespace {

/// The fields as they are in the file (specification, "Header"), nothing checked.
struct Fields {
    std::uint32_t version = 0;
    std::uint64_t backing_offset = 0;
    std::uint32_t backing_bytes = 0;
    std::uint32_t cluster_bits = 0;
    std::uint64_t virtual_size = 0;
    std::uint32_t encryption = 0;
    std::uint32_t l1_entries = 0;
    std::uint64_t l1_offset = 0;
    std::uint64_t refcount_table_offset = 0;
    std::uint32_t refcount_table_clusters = 0;
    std::uint32_t snapshot_count = 0;
    std::uint64_t snapshot_table_offset = 0;
    // What version 2 means by not having these.
    std::uint64_t incompatible = 0;
    std::uint64_t compatible = 0;
    std::uint64_t autoclear = 0;
    std::uint32_t refcount_order = 4;
    std::uint32_t header_bytes = header_bytes_v2;
    std::uint8_t compression = 0;
};

Fields read_fields_v2(Cursor& cursor) {
    Fields fields;
    if (cursor.number<std::uint32_t>() != magic)
        throw Error(ErrorCode::corrupt_image, "the file does not begin with the qcow2 magic number");
    fields.version = cursor.number<std::uint32_t>();
    if (fields.version != 2 && fields.version != 3)
        throw Error(ErrorCode::unsupported, "the image is of qcow2 version {}, not 2 or 3", fields.version);
    fields.backing_offset = cursor.number<std::uint64_t>();
    fields.backing_bytes = cursor.number<std::uint32_t>();
    fields.cluster_bits = cursor.number<std::uint32_t>();
    fields.virtual_size = cursor.number<std::uint64_t>();
    fields.encryption = cursor.number<std::uint32_t>();
    fields.l1_entries = cursor.number<std::uint32_t>();
    fields.l1_offset = cursor.number<std::uint64_t>();
    fields.refcount_table_offset = cursor.number<std::uint64_t>();
    fields.refcount_table_clusters = cursor.number<std::uint32_t>();
    fields.snapshot_count = cursor.number<std::uint32_t>();
    fields.snapshot_table_offset = cursor.number<std::uint64_t>();
    return fields;
}

Fields read_fields(const ImageSource& source) {
    Cursor cursor(source, 0, source.size(), "file");
    Fields fields = read_fields_v2(cursor);
    if (fields.version == 2) return fields;
    fields.incompatible = cursor.number<std::uint64_t>();
    fields.compatible = cursor.number<std::uint64_t>();
    fields.autoclear = cursor.number<std::uint64_t>();
    fields.refcount_order = cursor.number<std::uint32_t>();
    fields.header_bytes = cursor.number<std::uint32_t>();
    // "A field is considered not present when header_length is less than or equal to the field's offset."
    if (fields.header_bytes > compression_type_offset) fields.compression = cursor.number<std::uint8_t>();
    return fields;
}

void check_layout(const Fields& fields) {
    if (fields.cluster_bits < min_cluster_bits || fields.cluster_bits > max_cluster_bits)
        throw Error(ErrorCode::corrupt_image, "clusters of 2^{} bytes are not between 2^{} and 2^{}",
                    fields.cluster_bits, min_cluster_bits, max_cluster_bits);
    const std::uint64_t cluster_size = std::uint64_t{1} << fields.cluster_bits;
    if (fields.version == 3 && (fields.header_bytes < min_header_bytes_v3 || fields.header_bytes % 8 != 0))
        throw Error(ErrorCode::corrupt_image, "a header length of {} is not a multiple of 8 from {} on",
                    fields.header_bytes, min_header_bytes_v3);
    if (fields.header_bytes > cluster_size)
        throw Error(ErrorCode::corrupt_image, "the header of {} bytes is longer than the cluster of {} bytes",
                    fields.header_bytes, cluster_size);
    if (fields.backing_offset == 0) return;
    if (fields.backing_offset < fields.header_bytes || fields.backing_offset > cluster_size ||
        fields.backing_bytes > cluster_size - fields.backing_offset)
        throw Error(
            ErrorCode::corrupt_image,
            "the backing file name of {} bytes at offset {} is not between the header's end at {} and the "
            "cluster's end at {}",
            fields.backing_bytes, fields.backing_offset, fields.header_bytes, cluster_size);
    if (fields.backing_bytes > max_backing_name_bytes)
        throw Error(ErrorCode::corrupt_image, "the backing file name has {} bytes, more than {}",
                    fields.backing_bytes, max_backing_name_bytes);
}

/// Between the header and the backing file name, or the end of the first cluster.
Region extension_area(const Fields& fields) {
    const std::uint64_t end =
        fields.backing_offset != 0 ? fields.backing_offset : std::uint64_t{1} << fields.cluster_bits;
    return {fields.header_bytes, end - fields.header_bytes};
}

std::vector<std::uint32_t> bits_of(std::uint64_t mask) {
    std::vector<std::uint32_t> bits;
    for (; mask != 0; mask &= mask - 1) bits.push_back(static_cast<std::uint32_t>(std::countr_zero(mask)));
    return bits;
}

/// "An implementation must fail to open an image if an unknown bit is set." The feature name table is
/// there for this message.
void refuse_unknown_features(const ImageSource& source, const Fields& fields) {
    constexpr std::uint64_t known = incompatible_dirty | incompatible_corrupt | incompatible_data_file |
                                    incompatible_compression | incompatible_extended_l2;
    const auto bits = bits_of(fields.incompatible & ~known);
    if (bits.empty()) return;
    const FeatureNames names = find_feature_names(source, extension_area(fields));
    std::vector<std::string> unknown;
    for (const std::uint32_t bit : bits) {
        const std::string name = feature_name(names, FeatureKind::incompatible, bit);
        unknown.push_back(name.empty() ? fmt::format("bit {}", bit)
                                       : fmt::format("{} (bit {})", quote(name), bit));
    }
    throw Error(ErrorCode::unsupported, "the image has incompatible features that are not known here: {}",
                joined(unknown, ", "));
}

Features features_of(const Fields& fields) {
    Features features;
    features.dirty = (fields.incompatible & incompatible_dirty) != 0;
    features.corrupt = (fields.incompatible & incompatible_corrupt) != 0;
    features.external_data_file = (fields.incompatible & incompatible_data_file) != 0;
    features.extended_l2 = (fields.incompatible & incompatible_extended_l2) != 0;
    features.lazy_refcounts = (fields.compatible & compatible_lazy_refcounts) != 0;
    features.bitmaps = (fields.autoclear & autoclear_bitmaps) != 0;
    features.raw_external_data = (fields.autoclear & autoclear_raw_data_file) != 0;
    if (features.extended_l2 && fields.cluster_bits < min_cluster_bits_extended_l2)
        throw Error(ErrorCode::corrupt_image, "extended L2 entries need clusters of 2^{} bytes, not 2^{}",
                    min_cluster_bits_extended_l2, fields.cluster_bits);
    if (features.raw_external_data && !features.external_data_file)
        throw Error(ErrorCode::corrupt_image, "the image has raw external data, but no external data file");
    if (features.raw_external_data && fields.backing_offset != 0 && fields.backing_bytes != 0)
        throw Error(ErrorCode::corrupt_image, "the image has raw external data and a backing file");
    return features;
}

void add_unknown_features(Features& features, const Fields& fields, const FeatureNames& names) {
    const auto add = [&](FeatureKind kind, std::uint64_t mask) {
        for (const std::uint32_t bit : bits_of(mask))
            features.unknown.push_back({kind, bit, feature_name(names, kind, bit)});
    };
    add(FeatureKind::compatible, fields.compatible & ~compatible_lazy_refcounts);
    add(FeatureKind::autoclear, fields.autoclear & ~(autoclear_bitmaps | autoclear_raw_data_file));
}

Compression compression_of(const Fields& fields) {
    if (fields.compression > 1)
        throw Error(ErrorCode::unsupported, "the image is compressed by method {}, which is not known here",
                    fields.compression);
    const bool marked = (fields.incompatible & incompatible_compression) != 0;
    if (marked != (fields.compression != 0))
        throw Error(ErrorCode::corrupt_image, "the compression type is {}, but its feature bit is {}",
                    fields.compression, marked ? "set" : "not set");
    return fields.compression == 0 ? Compression::zlib : Compression::zstd;
}

Encryption encryption_of(const Fields& fields) {
    if (fields.encryption > 2)
        throw Error(ErrorCode::unsupported, "the image is encrypted by method {}, which is not known here",
                    fields.encryption);
    return static_cast<Encryption>(fields.encryption);
}

void check_size(const Header& header) {
    if (header.virtual_size % sector_bytes != 0)
        throw Error(ErrorCode::unsupported, "the virtual size of {} bytes is not a multiple of {}",
                    header.virtual_size, sector_bytes);
    if (header.l1_table.bytes > max_l1_bytes)
        throw Error(ErrorCode::corrupt_image, "the L1 table has {} entries, more than {}",
                    header.l1_entries(), max_l1_bytes / table_entry_bytes);
    const std::uint64_t needed =
        l1_entries_for(header.virtual_size, header.cluster_bits, header.features.extended_l2);
    if (header.l1_entries() < needed)
        throw Error(ErrorCode::corrupt_image,
                    "the virtual size of {} bytes needs {} L1 entries, but the table has {}",
                    header.virtual_size, needed, header.l1_entries());
}

void check_refcounts(const Header& header) {
    if (header.refcount_order > max_refcount_order)
        throw Error(ErrorCode::corrupt_image, "reference counts of 2^{} bits are wider than 2^{}",
                    header.refcount_order, max_refcount_order);
    if (header.refcount_table.bytes == 0)
        throw Error(ErrorCode::corrupt_image, "the image has no refcount table");
    if (header.refcount_table.bytes > max_refcount_table_bytes)
        throw Error(ErrorCode::corrupt_image, "the refcount table has {} bytes, more than {}",
                    header.refcount_table.bytes, max_refcount_table_bytes);
}

/// The tables whose place the fixed fields tell. Of the snapshot table only the least size is known yet.
std::vector<NamedRegion> tables_of(const Header& header) {
    return {{"L1 table", header.l1_table},
            {"refcount table", header.refcount_table},
            {"snapshot table", {header.snapshot_table_offset, header.snapshot_count * snapshot_entry_bytes}}};
}

void check_tables(const Header& header, std::uint64_t file_size) {
    check_size(header);
    check_refcounts(header);
    if (header.snapshot_count > max_snapshots)
        throw Error(ErrorCode::corrupt_image, "the image has {} snapshots, more than {}",
                    header.snapshot_count, max_snapshots);
    for (const NamedRegion& table : tables_of(header)) check_region(table, header.cluster_size(), file_size);
}

void check_apart(const Header& header) {
    std::vector<NamedRegion> regions = tables_of(header);
    if (header.bitmaps) regions.push_back({"bitmap directory", header.bitmaps->directory});
    if (header.encryption_header) regions.push_back({"encryption header", *header.encryption_header});
    check_disjoint(std::move(regions));
}

std::optional<std::string> backing_file_of(const ImageSource& source, const Fields& fields) {
    // QEMU too takes an empty name for none.
    if (fields.backing_offset == 0 || fields.backing_bytes == 0) return std::nullopt;
    Cursor cursor(source, fields.backing_offset, fields.backing_offset + fields.backing_bytes,
                  "backing file name");
    std::string name = cursor.text(fields.backing_bytes);
    if (name.find('\0') != std::string::npos)
        throw Error(ErrorCode::corrupt_image, "the backing file name {} has a NUL in it", quote(name));
    return name;
}

Header header_of(const Fields& fields) {
    Header header;
    header.version = fields.version;
    header.header_bytes = fields.header_bytes;
    header.virtual_size = fields.virtual_size;
    header.cluster_bits = fields.cluster_bits;
    header.refcount_order = fields.refcount_order;
    header.features = features_of(fields);
    header.encryption = encryption_of(fields);
    header.compression = compression_of(fields);
    header.l1_table = {fields.l1_offset, fields.l1_entries * table_entry_bytes};
    header.refcount_table = {fields.refcount_table_offset,
                             std::uint64_t{fields.refcount_table_clusters} << fields.cluster_bits};
    header.snapshot_count = fields.snapshot_count;
    header.snapshot_table_offset = fields.snapshot_table_offset;
    return header;
}

}  // namespace

Header read_header(const ImageSource& source) {
    const Fields fields = read_fields(source);
    check_layout(fields);
    refuse_unknown_features(source, fields);
    Header header = header_of(fields);
    check_tables(header, source.size());
    const FeatureNames names = read_extensions(source, extension_area(fields), header);
    add_unknown_features(header.features, fields, names);
    header.backing_file = backing_file_of(source, fields);
    check_apart(header);
    return header;
}

std::uint64_t l1_entries_for(std::uint64_t virtual_size, std::uint32_t cluster_bits, bool extended_l2) {
    // One L1 entry stands for one L2 table, which has one cluster of entries of 8 or 16 bytes.
    const std::uint32_t bits = cluster_bits + cluster_bits - (extended_l2 ? 4 : 3);
    const std::uint64_t rest = virtual_size & ((std::uint64_t{1} << bits) - 1);
    return (virtual_size >> bits) + (rest != 0 ? 1 : 0);
}

std::string_view name(Compression compression) noexcept {
    return compression == Compression::zlib ? "zlib" : "zstd";
}

std::string_view name(Encryption encryption) noexcept {
    switch (encryption) {
        case Encryption::none:
            return "none";
        case Encryption::aes:
            return "aes";
        case Encryption::luks:
            return "luks";
    }
    return "unknown";
}

std::string_view name(FeatureKind kind) noexcept {
    switch (kind) {
        case FeatureKind::incompatible:
            return "incompatible";
        case FeatureKind::compatible:
            return "compatible";
        case FeatureKind::autoclear:
            return "autoclear";
    }
    return "unknown";
}

}  // namespace volchain::qcow2
