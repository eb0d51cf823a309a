// SPDX-License-Identifier: MIT
//
// Feeds images to every reader of lib/qcow2. An image may be refused, with CorruptImage or Unsupported
// and with nothing else. What is accepted must keep the promises of the headers: places within the file,
// names and numbers within their limits, and little read for it. Each input is read twice: as it is, and
// followed by 8 MiB of zeroes, so that the first bytes of an image with large clusters get far enough.
#include <cstddef>
#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "qcow2/allocation.h"
#include "qcow2/bitmap_directory.h"
#include "qcow2/header.h"
#include "qcow2/identify.h"
#include "qcow2/limits.h"
#include "qcow2/snapshot_table.h"
#include "qcow2_input.h"

namespace volchain::qcow2 {
namespace {

void check_region(const ImageSource& source, const Header& header, const Region& region) {
    require(region.offset % header.cluster_size() == 0);
    if (region.bytes == 0) return;
    require(region.offset >= header.cluster_size());
    require(region.offset <= source.size() && region.bytes <= source.size() - region.offset);
}

void check_name(const std::string& name, std::size_t limit) {
    require(name.size() <= limit);
    require(name.find('\0') == std::string::npos);
}

void check_features(const Features& features) {
    require(!features.raw_external_data || features.external_data_file);
    for (const UnknownFeature& feature : features.unknown) {
        require(feature.kind != FeatureKind::incompatible && feature.bit < 64);
        check_name(feature.name, 46);
    }
}

void check_header(const ImageSource& source, const Header& header) {
    require(header.version == 2 || header.version == 3);
    require(header.cluster_bits >= 9 && header.cluster_bits <= 21);
    require(header.header_bytes >= 72 && header.header_bytes <= header.cluster_size());
    require(header.refcount_bits() >= 1 && header.refcount_bits() <= 64);
    require(header.virtual_size % 512 == 0);
    require(!header.features.extended_l2 || header.cluster_size() >= 16384);
    require(header.l1_entries() >=
            l1_entries_for(header.virtual_size, header.cluster_bits, header.features.extended_l2));
    require(header.l1_table.bytes <= max_l1_bytes);
    require(header.refcount_table.bytes > 0 && header.refcount_table.bytes <= max_refcount_table_bytes);
    require(header.snapshot_count <= max_snapshots);
    require(header.features.bitmaps == header.bitmaps.has_value());
    require((header.encryption == Encryption::luks) == header.encryption_header.has_value());
    require(!header.backing_file || !header.backing_file->empty());
    check_name(header.backing_file.value_or(""), max_backing_name_bytes);
    check_name(header.backing_format.value_or(""), max_backing_format_bytes);
    check_name(header.data_file.value_or(""), max_data_file_name_bytes);
    check_features(header.features);
    check_region(source, header, header.l1_table);
    check_region(source, header, header.refcount_table);
    if (header.bitmaps) check_region(source, header, header.bitmaps->directory);
    if (header.encryption_header) check_region(source, header, *header.encryption_header);
}

void check_bitmaps(const PaddedSource& source, const Header& header) {
    std::vector<Bitmap> bitmaps;
    if (accepted([&] { bitmaps = read_bitmaps(source, header); }))
        require(bitmaps.size() == (header.bitmaps ? header.bitmaps->count : 0));
    source.expect_at_most(max_bitmap_directory_bytes);
    std::set<std::string> names;
    std::set<std::uint64_t> places;
    for (const Bitmap& bitmap : bitmaps) {
        check_name(bitmap.name, max_bitmap_name_bytes);
        require(!bitmap.name.empty() && names.insert(bitmap.name).second);
        require(bitmap.granularity >= 512 && bitmap.granularity <= std::uint64_t{1} << 31);
        require(bitmap.table.bytes > 0 && places.insert(bitmap.table.offset).second);
        require(bitmap.table.offset != header.l1_table.offset || header.l1_table.bytes == 0);
        check_region(source, header, bitmap.table);
    }
}

void check_snapshots(const PaddedSource& source, const Header& header) {
    std::vector<Snapshot> snapshots;
    if (accepted([&] { snapshots = read_snapshots(source, header); }))
        require(snapshots.size() == header.snapshot_count);
    source.expect_at_most(max_snapshot_table_bytes + (256U << 10));
    for (const Snapshot& snapshot : snapshots) {
        check_name(snapshot.id, 65535);
        check_name(snapshot.name, 65535);
        require(snapshot.l1_table.bytes <= max_l1_bytes);
        check_region(source, header, snapshot.l1_table);
    }
}

void check_image(const PaddedSource& source) {
    const auto format = identify(source);
    source.expect_at_most(8192);
    Header header;
    const bool good = accepted([&] { header = read_header(source); });
    source.expect_at_most(4U << 20);
    if (!good) return;
    require(format == Format::qcow2);
    check_header(source, header);
    check_bitmaps(source, header);
    check_snapshots(source, header);
    (void)has_data(source, header);
    source.expect_at_most(max_l1_bytes);
}

}  // namespace
}  // namespace volchain::qcow2

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const auto bytes = std::as_bytes(std::span(data, size));
    volchain::qcow2::check_image({bytes, 0});
    volchain::qcow2::check_image({bytes, 8U << 20});
    return 0;
}
