// SPDX-License-Identifier: MIT
#include "qcow2/empty_image.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <concepts>
#include <span>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "qcow2/big_endian.h"
#include "qcow2/limits.h"

namespace volchain::qcow2 {
namespace {

/// What QEMU 7.2 writes: up to and with the compression type, padded to a multiple of 8.
constexpr std::uint32_t new_header_bytes = 112;

/// QEMU leaves the feature name table out of images with small clusters, for the sake of a long backing
/// file name.
constexpr std::uint64_t max_cluster_without_feature_names = 4096;

struct KnownFeature {
    FeatureKind kind;
    std::uint8_t bit;
    std::string_view name;
};

/// The bits of the specification under the names that QEMU gives them.
constexpr std::array<KnownFeature, 8> known_features{{
    {FeatureKind::incompatible, 0, "dirty bit"},
    {FeatureKind::incompatible, 1, "corrupt bit"},
    {FeatureKind::incompatible, 2, "external data file"},
    {FeatureKind::incompatible, 3, "compression type"},
    {FeatureKind::incompatible, 4, "extended L2 entries"},
    {FeatureKind::compatible, 0, "lazy refcounts"},
    {FeatureKind::autoclear, 0, "bitmaps"},
    {FeatureKind::autoclear, 1, "raw external data"},
}};

[[noreturn]] void refuse(const std::string& why) {
    throw Error(ErrorCode::invalid_argument, "cannot make a qcow2 image: {}", why);
}

std::uint32_t cluster_bits_of(const EmptyImageOptions& options) {
    return static_cast<std::uint32_t>(std::countr_zero(options.cluster_size));
}

std::uint64_t l1_entries_of(const EmptyImageOptions& options) {
    return l1_entries_for(options.virtual_size, cluster_bits_of(options), options.extended_l2);
}

/// How many clusters each structure takes; they follow each other in this order, behind the header's cluster.
struct Layout {
    std::uint64_t cluster_size = 0;
    std::uint64_t refcount_table_clusters = 1;
    std::uint64_t refcount_blocks = 1;
    std::uint64_t l1_entries = 0;

    [[nodiscard]] std::uint64_t refcount_table_offset() const { return cluster_size; }
    [[nodiscard]] std::uint64_t refcount_blocks_offset() const {
        return refcount_table_offset() + refcount_table_clusters * cluster_size;
    }
    [[nodiscard]] std::uint64_t l1_offset() const {
        return refcount_blocks_offset() + refcount_blocks * cluster_size;
    }
    [[nodiscard]] std::uint64_t length() const { return l1_offset() + l1_entries * table_entry_bytes; }
    [[nodiscard]] std::uint64_t clusters() const { return divide_up(length(), cluster_size); }
};

/// The refcounts take clusters too, whose refcounts have to be somewhere: counted until nothing grows
/// any more.
Layout lay_out(const EmptyImageOptions& options) {
    Layout layout;
    layout.cluster_size = options.cluster_size;
    layout.l1_entries = l1_entries_of(options);
    const std::uint64_t counts_in_block = options.cluster_size * 8 / options.refcount_bits;
    while (true) {
        const std::uint64_t blocks = divide_up(layout.clusters(), counts_in_block);
        const std::uint64_t table_clusters = divide_up(blocks * table_entry_bytes, options.cluster_size);
        if (blocks == layout.refcount_blocks && table_clusters == layout.refcount_table_clusters)
            return layout;
        layout.refcount_blocks = blocks;
        layout.refcount_table_clusters = table_clusters;
    }
}

void check_names(const EmptyImageOptions& options) {
    if (options.backing_file.has_value() != options.backing_format.has_value())
        refuse("a backing file and its format go together");
    const auto check = [](std::string_view what, const std::string& text, std::size_t limit) {
        if (text.empty() || text.size() > limit)
            refuse(fmt::format("the {} has {} bytes, not 1 to {}", what, text.size(), limit));
        if (text.find('\0') != std::string::npos)
            refuse(fmt::format("the {} {} has a NUL in it", what, quote(text)));
    };
    if (options.label) check("label", *options.label, max_label_bytes);
    if (!options.backing_file) return;
    check("backing file name", *options.backing_file, max_backing_name_bytes);
    check("backing format", *options.backing_format, max_backing_format_bytes);
}

void check(const EmptyImageOptions& options) {
    const std::uint64_t cluster = options.cluster_size;
    if (!std::has_single_bit(cluster) || cluster < std::uint64_t{1} << min_cluster_bits ||
        cluster > std::uint64_t{1} << max_cluster_bits)
        refuse(fmt::format("the cluster size {} is not a power of two from 512 to 2 MiB", cluster));
    if (options.extended_l2 && cluster < std::uint64_t{1} << min_cluster_bits_extended_l2)
        refuse(fmt::format("extended L2 entries need clusters of 16 KiB, not {} bytes", cluster));
    if (!std::has_single_bit(options.refcount_bits) || options.refcount_bits > 1U << max_refcount_order)
        refuse(
            fmt::format("the refcount width {} is not a power of two from 1 to 64", options.refcount_bits));
    if (options.virtual_size % sector_bytes != 0)
        refuse(fmt::format("the size {} is not a multiple of {} bytes", options.virtual_size, sector_bytes));
    check_names(options);
    if (l1_entries_of(options) > max_l1_bytes / table_entry_bytes)
        refuse(fmt::format("{} bytes are too many for clusters of {} bytes; larger clusters allow more",
                           options.virtual_size, cluster));
}

class HeaderWriter {
  public:
    template <std::unsigned_integral T>
    void number(T value) {
        bytes_.resize(bytes_.size() + sizeof(T));
        store_be(std::span(bytes_).last(sizeof(T)), value);
    }
    void text(std::string_view text) {
        const auto bytes = std::as_bytes(std::span(text));
        bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
    }
    void pad_to(std::size_t size) { bytes_.resize(std::max(bytes_.size(), size)); }
    [[nodiscard]] std::size_t size() const noexcept { return bytes_.size(); }
    template <std::unsigned_integral T>
    void number_at(std::size_t offset, T value) {
        store_be(std::span(bytes_).subspan(offset), value);
    }
    [[nodiscard]] std::vector<std::byte> take() && { return std::move(bytes_); }

  private:
    std::vector<std::byte> bytes_;
};

/// Specification, "Header". The backing file name's place is filled in when it is known.
void write_fields(HeaderWriter& out, const EmptyImageOptions& options, const Layout& layout) {
    const bool compression = options.compression != Compression::zlib;
    out.number(magic);
    out.number(std::uint32_t{3});
    out.number(std::uint64_t{0});
    out.number(std::uint32_t{0});
    out.number(cluster_bits_of(options));
    out.number(options.virtual_size);
    out.number(std::uint32_t{0});  // no encryption
    out.number(static_cast<std::uint32_t>(layout.l1_entries));
    out.number(layout.l1_entries != 0 ? layout.l1_offset() : std::uint64_t{0});
    out.number(layout.refcount_table_offset());
    out.number(static_cast<std::uint32_t>(layout.refcount_table_clusters));
    out.number(std::uint32_t{0});  // no snapshots
    out.number(std::uint64_t{0});
    out.number((compression ? incompatible_compression : 0) |
               (options.extended_l2 ? incompatible_extended_l2 : 0));
    out.number(options.lazy_refcounts ? compatible_lazy_refcounts : 0);
    out.number(std::uint64_t{0});
    out.number(static_cast<std::uint32_t>(std::countr_zero(options.refcount_bits)));
    out.number(new_header_bytes);
    out.number(static_cast<std::uint8_t>(compression ? 1 : 0));
    out.pad_to(new_header_bytes);
}

void write_feature_names(HeaderWriter& out) {
    out.number(extension_feature_names);
    out.number(static_cast<std::uint32_t>(known_features.size() * feature_name_entry_bytes));
    for (const KnownFeature& feature : known_features) {
        const std::size_t end = out.size() + feature_name_entry_bytes;
        out.number(static_cast<std::uint8_t>(feature.kind));
        out.number(feature.bit);
        out.text(feature.name);
        out.pad_to(end);
    }
}

void write_text_extension(HeaderWriter& out, std::uint32_t type, std::string_view text) {
    out.number(type);
    out.number(static_cast<std::uint32_t>(text.size()));
    out.text(text);
    out.pad_to((out.size() + 7) / 8 * 8);
}

std::vector<std::byte> header_bytes(const EmptyImageOptions& options, const Layout& layout) {
    HeaderWriter out;
    write_fields(out, options, layout);
    if (options.backing_format) write_text_extension(out, extension_backing_format, *options.backing_format);
    if (options.label) write_text_extension(out, extension_label, *options.label);
    if (options.cluster_size > max_cluster_without_feature_names) write_feature_names(out);
    out.number(extension_end);
    out.number(std::uint32_t{0});
    if (options.backing_file) {
        out.number_at(8, std::uint64_t{out.size()});
        out.number_at(16, static_cast<std::uint32_t>(options.backing_file->size()));
        out.text(*options.backing_file);
    }
    if (out.size() > options.cluster_size)
        refuse(fmt::format("the header, with its names, of {} bytes does not fit in a cluster of {} bytes",
                           out.size(), options.cluster_size));
    return std::move(out).take();
}

std::vector<std::byte> refcount_table(const Layout& layout) {
    std::vector<std::byte> table(static_cast<std::size_t>(layout.refcount_blocks * table_entry_bytes));
    for (std::uint64_t i = 0; i < layout.refcount_blocks; ++i)
        store_be(std::span(table).subspan(static_cast<std::size_t>(i * table_entry_bytes)),
                 layout.refcount_blocks_offset() + i * layout.cluster_size);
    return table;
}

/// A count of 1 for each cluster there is. The blocks lie one behind the other, so they are one array of
/// counts (specification, "Refcount block entry": within a byte, the first count has the least
/// significant bits).
std::vector<std::byte> refcounts(const Layout& layout, std::uint32_t bits) {
    const std::uint64_t count = layout.clusters();
    std::vector<std::byte> counts(static_cast<std::size_t>(divide_up(count * bits, 8)));
    for (std::uint64_t i = 0; i < count; ++i) {
        const std::uint64_t bit = bits < 8 ? i * bits : (i + 1) * bits - 8;  // of wide counts, the last byte
        counts[static_cast<std::size_t>(bit / 8)] |= std::byte{1} << (bit % 8);
    }
    return counts;
}

}  // namespace

EmptyImage empty_image(const EmptyImageOptions& options) {
    check(options);
    const Layout layout = lay_out(options);
    EmptyImage image;
    image.extents.push_back({0, header_bytes(options, layout)});
    image.extents.push_back({layout.refcount_table_offset(), refcount_table(layout)});
    image.extents.push_back({layout.refcount_blocks_offset(), refcounts(layout, options.refcount_bits)});
    image.length = layout.length();
    return image;
}

}  // namespace volchain::qcow2
