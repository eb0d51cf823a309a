// SPDX-License-Identifier: MIT
//
// Maps of images whose tables are damaged. "qemu-img info" looks at none of this.
#include <gtest/gtest.h>

#include <array>

#include "qcow2/layer_map.h"
#include "qcow2/limits.h"
#include "support.h"

namespace volchain::qcow2::damaged_layer_map_test {
namespace {

constexpr auto corrupt = ErrorCode::corrupt_image;

/// Of 1 MiB: the first cluster with data, the second one compressed, the third one zero.
Bytes image(std::string_view options, std::uint64_t cluster_size) {
    const TemporaryDirectory directory;
    const std::string path = directory / "image";
    create(path, "1M", options);
    run_well({"qemu-io", "-f", "qcow2", "-c", fmt::format("write 0 {}", cluster_size), "-c",
              fmt::format("write -c {0} {0}", cluster_size), "-c",
              fmt::format("write -z {} {}", 2 * cluster_size, cluster_size), path});
    return load(path);
}

std::size_t l1_of(const Bytes& bytes) {
    return static_cast<std::size_t>(header_of(bytes).l1_table.offset);
}
std::size_t l2_of(const Bytes& bytes) {
    return static_cast<std::size_t>(get<std::uint64_t>(bytes, l1_of(bytes)) & table_offset_bits);
}

Bytes with_entry(Bytes bytes, std::size_t at, std::uint64_t entry) {
    put(bytes, at, entry);
    return bytes;
}

constexpr std::uint64_t copied = table_entry_copied;

TEST(DamagedLayerMap, DamagedL1Table) {
    const Bytes bytes = image("cluster_size=512", 512);
    const std::size_t at = l1_of(bytes);
    const std::uint64_t table = l2_of(bytes);
    const auto damages = std::to_array<Damage>({
        {at, 8, copied | table | 1, corrupt, "L1 entry 0 has reserved bits set", true},
        {at, 8, copied | table | (std::uint64_t{1} << 56), corrupt, "L1 entry 0 has reserved bits", true},
        {at, 8, UINT64_MAX, corrupt, "L1 entry 0 has reserved bits", true},
        {at, 8, copied | (std::uint64_t{1} << 50), corrupt, "does not lie within the file", true},
        {at, 8, copied | bytes.size() / 512 * 512, corrupt, "L2 table of 512 bytes", true},
        {at + 8, 8, table_offset_bits, corrupt, "L1 entry 1 is wrong: the L2 table", true},
    });
    expect_damage_refused(bytes, damages);

    Bytes elsewhere = created("1G");
    put(elsewhere, l1_of(elsewhere) + 8, copied | (65536 + 512));
    expect_refused(elsewhere, corrupt, "not on a boundary");
    put(elsewhere, l1_of(elsewhere) + 8, copied | 512);
    expect_refused(elsewhere, corrupt, "not on a boundary");
}

TEST(DamagedLayerMap, AnEntryWithoutAnOffsetIsNone) {
    Bytes bytes = created("1M", "cluster_size=512");
    put(bytes, l1_of(bytes), copied);
    EXPECT_FALSE(error_in(bytes));
}

TEST(DamagedLayerMap, DamagedL2Table) {
    const Bytes bytes = image("cluster_size=512", 512);
    const std::size_t at = l2_of(bytes);
    const auto data = get<std::uint64_t>(bytes, at);
    const auto damages = std::to_array<Damage>({
        {at, 8, data | 2, corrupt, "cluster at 0 of the disk has reserved bits set", true},
        {at, 8, data | 256, corrupt, "reserved bits", true},
        {at, 8, data | (std::uint64_t{1} << 61), corrupt, "reserved bits", true},
        {at, 8, copied | (std::uint64_t{1} << 40), corrupt,
         "between the header's cluster and the end of the file", true},
        {at + 16, 8, 3, corrupt, "cluster at 1024 of the disk has reserved bits", true},
        {at + 8, 8, l2_compressed, corrupt, "cluster at 512 of the disk is at offset 0", true},
        {at + 8, 8, l2_compressed | 511, corrupt, "cluster at 512 of the disk is at offset 511", true},
        {at + 8, 8, UINT64_MAX, corrupt, "not between", true},
        {at + 8, 8, l2_compressed | bytes.size(), corrupt, "not between", true},
        {at + 504, 8, bytes.size() + 512, corrupt, "cluster at 32256 of the disk", true},
    });
    expect_damage_refused(bytes, damages);
    // A zero cluster that was allocated may have no bytes behind it: they are never read.
    EXPECT_FALSE(error_in(with_entry(bytes, at, copied | (std::uint64_t{1} << 40) | l2_zero)));
    EXPECT_FALSE(error_in(with_entry(bytes, at + 8, l2_compressed | (bytes.size() - 1))));

    Bytes elsewhere = image("", 65536);
    put(elsewhere, l2_of(elsewhere) + 16, copied | 65536 | 512);
    expect_refused(elsewhere, corrupt, "cluster at 131072 of the disk is at offset 66048, not on a boundary");
}

TEST(DamagedLayerMap, ZeroClustersInVersion2AreDamage) {
    const Bytes bytes = image("compat=0.10,cluster_size=512", 512);
    EXPECT_FALSE(error_in(bytes));
    expect_refused(with_entry(bytes, l2_of(bytes), l2_zero), corrupt, "reserved bits");
}

TEST(DamagedLayerMap, DamagedSubclusters) {
    const Bytes bytes = image("extended_l2=on", 65536);
    EXPECT_FALSE(error_in(bytes));
    const std::size_t at = l2_of(bytes);
    const auto data = get<std::uint64_t>(bytes, at);
    const auto damages = std::to_array<Damage>({
        {at, 8, data | l2_zero, corrupt, "reserved bits", true},
        {at, 8, 0, corrupt, "cannot be so: 0xffffffff at offset 0", true},
        {at + 8, 8, UINT64_MAX, corrupt, "cannot be so", true},
        {at + 8, 8, 0x0000000100000001, corrupt, "cannot be so", true},
        {at + 24, 8, 1, corrupt, "cluster at 65536 of the disk is compressed and has subclusters: 0x1", true},
        {at + 40, 8, 1, corrupt, "cluster at 131072 of the disk cannot be so", true},
    });
    expect_damage_refused(bytes, damages);
}

TEST(DamagedLayerMap, OneTableForManyEntriesIsNotReadForEach) {
    Bytes bytes = created("100G", "cluster_size=4096");  // 51,200 L1 entries
    bytes.resize(bytes.size() / 4096 * 4096 + 8192);
    for (std::size_t i = 0; i < 51200; ++i) put(bytes, l1_of(bytes) + 8 * i, copied | (bytes.size() - 4096));
    expect_refused(bytes, corrupt, "more L2 tables than there is room for");
}

TEST(DamagedLayerMap, TruncatedImagesAreDamaged) {
    const Bytes bytes = image("", 65536);
    for (std::size_t size = bytes.size() - 1; size > header_of(bytes).l1_table.offset + 65536;
         size -= 30000) {
        const auto error = error_in({bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size)});
        if (error) {
            EXPECT_EQ(error->code(), corrupt);
        }
    }
    expect_refused({bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(l2_of(bytes) + 100)}, corrupt,
                   "does not lie within the file");
}

}  // namespace
}  // namespace volchain::qcow2::damaged_layer_map_test
