// SPDX-License-Identifier: MIT
//
// Header: what the header and the header extensions of a qcow2 image (version 2 or 3) say, as plain values.
//
// read_header() believes nothing. Each number is held against the specification, QEMU's limits and the
// size of the file before it is used or reported, so whoever has a Header may use its offsets and
// lengths without a further check. It reads hardly more than the first cluster, and allocates a few KiB,
// whatever the header says. It is stricter than QEMU where QEMU reads what the specification does not allow;
// header.cpp and extensions.cpp say where.
//
// It only reports facts. Whether a data file is allowed or where a backing file may be is for others to
// say, and whether clusters, reference counts and bitmaps agree with each other is found by "qemu-img
// check".
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "qcow2/image_source.h"

namespace volchain::qcow2 {

enum class Encryption { none, aes, luks };
enum class Compression { zlib, zstd };
enum class FeatureKind { incompatible, compatible, autoclear };

/// A feature bit that is set and has no meaning to us. Never incompatible: such an image is refused.
struct UnknownFeature {
    FeatureKind kind = FeatureKind::compatible;
    std::uint32_t bit = 0;
    std::string name;  // from the image's feature name table; empty if it is not there
};

struct Features {
    bool dirty = false;    // reference counts may be wrong; QEMU repairs the image when it is next written
    bool corrupt = false;  // QEMU found damage and opens the image for reading only
    bool external_data_file = false;  // guest data is in another file
    bool extended_l2 = false;
    bool lazy_refcounts = false;
    bool bitmaps = false;  // the bitmaps in Header::bitmaps can be relied on
    bool raw_external_data = false;
    std::vector<UnknownFeature> unknown;
};

/// A contiguous part of the image file.
struct Region {
    std::uint64_t offset = 0;
    std::uint64_t bytes = 0;
};

struct BitmapsExtension {
    std::uint32_t count = 0;
    Region directory;
};

struct Header {
    std::uint32_t version = 0;
    std::uint32_t header_bytes = 0;
    std::uint64_t virtual_size = 0;
    std::uint32_t cluster_bits = 0;
    std::uint32_t refcount_order = 0;
    Features features;
    Encryption encryption = Encryption::none;
    Compression compression = Compression::zlib;

    /// The bytes of the header: a path, or anything that QEMU takes for a file name ("nbd://...",
    /// "json:{...}").
    std::optional<std::string> backing_file;
    /// May be there without a backing file, and then means nothing.
    std::optional<std::string> backing_format;
    std::optional<std::string> data_file;

    /// What volchain itself has said of the image when it made it (EmptyImageOptions::label).
    std::optional<std::string> label;

    Region l1_table;  // no bytes where the virtual size is 0
    Region refcount_table;
    std::optional<Region> encryption_header;  // LUKS only

    std::uint32_t snapshot_count = 0;
    std::uint64_t snapshot_table_offset = 0;

    /// None too where the extension is there but features.bitmaps is not: then a program without an
    /// understanding of bitmaps has written to the image, and what the extension says is void
    /// (`stale_bitmaps`).
    std::optional<BitmapsExtension> bitmaps;
    bool stale_bitmaps = false;

    [[nodiscard]] std::uint64_t cluster_size() const noexcept { return std::uint64_t{1} << cluster_bits; }
    [[nodiscard]] std::uint32_t refcount_bits() const noexcept { return 1U << refcount_order; }
    [[nodiscard]] std::uint64_t l1_entries() const noexcept { return l1_table.bytes / 8; }
};

/// CorruptImage where the file is no valid qcow2 image, Unsupported where it is one of a kind that
/// neither we nor QEMU 7.2 can work with.
[[nodiscard]] Header read_header(const ImageSource& source);

/// How many L1 entries a disk of `virtual_size` bytes needs.
[[nodiscard]] std::uint64_t l1_entries_for(std::uint64_t virtual_size, std::uint32_t cluster_bits,
                                           bool extended_l2);

/// "zlib", "zstd": QEMU's names (QAPI Qcow2CompressionType).
[[nodiscard]] std::string_view name(Compression compression) noexcept;
/// "none", "aes", "luks" (QAPI BlockdevQcow2EncryptionFormat).
[[nodiscard]] std::string_view name(Encryption encryption) noexcept;
[[nodiscard]] std::string_view name(FeatureKind kind) noexcept;

}  // namespace volchain::qcow2
