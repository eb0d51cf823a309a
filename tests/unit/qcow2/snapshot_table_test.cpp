// SPDX-License-Identifier: MIT
#include "qcow2/snapshot_table.h"

#include <gtest/gtest.h>

#include <array>

#include "qcow2/limits.h"
#include "support.h"

namespace volchain::qcow2::snapshot_table_test {
namespace {

constexpr auto corrupt = ErrorCode::corrupt_image;

std::vector<Snapshot> snapshots_of(const Bytes& bytes) {
    const MemorySource source(bytes);
    return read_snapshots(source, read_header(source));
}

Bytes with_snapshots(const Words& names, std::string_view options = {}) {
    const TemporaryDirectory directory;
    create(directory / "image", "1G", options);
    for (const std::string& name : names) run_well({"qemu-img", "snapshot", "-c", name, directory / "image"});
    return load(directory / "image");
}

/// Its second snapshot is the last thing in the file.
const Bytes& image() {
    static const Bytes bytes = with_snapshots({"first", "second"});
    return bytes;
}

TEST(SnapshotTable, AsQemuSays) {
    const TemporaryDirectory directory;
    for (const char* options :
         {"", "compat=0.10", "cluster_size=512", "extended_l2=on", "refcount_bits=64"}) {
        store(directory / "image", with_snapshots({"first", "caf\xc3\xa9", "a:b c"}, options));
        expect_as_qemu_says(directory / "image");
    }
}

TEST(SnapshotTable, Fields) {
    const auto snapshots = snapshots_of(image());
    ASSERT_EQ(snapshots.size(), 2U);
    EXPECT_EQ(snapshots[0].id, "1");
    EXPECT_EQ(snapshots[0].name, "first");
    EXPECT_EQ(snapshots[0].disk_size, 1U << 30);
    EXPECT_EQ(snapshots[0].vm_state_bytes, 0U);
    EXPECT_EQ(snapshots[0].l1_table.bytes, 16U);
    EXPECT_GT(snapshots[0].created_sec, 1'000'000'000U);
    EXPECT_EQ(snapshots[1].id, "2");
    EXPECT_TRUE(snapshots_of(created("1G")).empty());
}

TEST(SnapshotTable, KeepsTheSizeTheDiskHadThen) {
    const TemporaryDirectory directory;
    const std::string path = directory / "image";
    store(path, image());
    run_well({"qemu-img", "resize", "-q", path, "2G"});
    const Bytes bytes = load(path);
    EXPECT_EQ(header_of(bytes).virtual_size, 2U << 30);
    EXPECT_EQ(snapshots_of(bytes)[0].disk_size, 1U << 30);
}

TEST(SnapshotTable, ExtraDataIsReadAsFarAsItIsKnown) {
    Bytes bytes = with_snapshots({"first"}, "compat=0.10");
    const auto at = static_cast<std::size_t>(get<std::uint64_t>(bytes, 64));
    const std::uint32_t extra = get<std::uint32_t>(bytes, at + 36);
    ASSERT_GE(extra, 16U);
    put(bytes, at + 32, std::uint32_t{77});       // the VM state's size, were there no extra data
    put(bytes, at + 40, std::uint64_t{1} << 33);  // the VM state's size
    put(bytes, at + 48, std::uint64_t{5} << 30);  // the disk's size
    EXPECT_EQ(snapshots_of(bytes)[0].vm_state_bytes, std::uint64_t{1} << 33);
    EXPECT_EQ(snapshots_of(bytes)[0].disk_size, std::uint64_t{5} << 30);

    // Version 2 may do without: the VM state's size is then that of the fixed part, the disk's that of
    // the image.
    Bytes without = bytes;
    put(without, at + 36, std::uint32_t{0});
    put_text(without, at + 40, "1first");
    EXPECT_EQ(snapshots_of(without)[0].vm_state_bytes, 77U);
    EXPECT_EQ(snapshots_of(without)[0].disk_size, 1U << 30);
    EXPECT_EQ(snapshots_of(without)[0].name, "first");

    // More than is known is passed over.
    bytes.resize(bytes.size() + 2048);
    put(bytes, at + 36, max_snapshot_extra_bytes);
    put_text(bytes, at + 40 + max_snapshot_extra_bytes, "1first");
    EXPECT_EQ(snapshots_of(bytes)[0].id, "1");
    EXPECT_EQ(snapshots_of(bytes)[0].name, "first");
}

TEST(SnapshotTable, DamagedEntries) {
    const Bytes& bytes = image();
    const auto first = static_cast<std::size_t>(get<std::uint64_t>(bytes, 64));
    const std::uint32_t extra = get<std::uint32_t>(bytes, first + 36);
    const std::size_t name = first + 40 + extra + 1;
    const std::size_t second = (name + 5 + 7) / 8 * 8;
    const auto damages = std::to_array<Damage>({
        {60, 4, 3, corrupt, "the entry at", true},  // QEMU reads zeroes beyond the end of the file
        {64, 8, 65536, corrupt, "lie over each other", true},
        {64, 8, std::uint64_t{1} << 40, corrupt, "does not lie within the file", true},
        {first, 8, 8, corrupt, "not on a boundary", true},
        {first, 8, 0, corrupt, "inside the header's cluster", true},
        {first, 8, std::uint64_t{1} << 40, corrupt, "does not lie within the file", true},
        {first, 8, UINT64_MAX - 65535, corrupt, "does not lie within the file", true},
        {first + 8, 4, 4194305, corrupt, "L1 table of snapshot 'first' has 4194305 entries", true},
        {first + 8, 4, UINT32_MAX, corrupt, "4294967295 entries", true},
        {first + 8, 4, 1U << 20, corrupt, "does not lie within the file", true},
        {first + 36, 4, 0, corrupt, "0 bytes of extra data, fewer than 16"},
        {first + 36, 4, 15, corrupt, "15 bytes of extra data", true},
        {first + 36, 4, 1025, corrupt, "1025 bytes of extra data, more than 1024"},
        {first + 36, 4, UINT32_MAX, corrupt, "bytes of extra data, more than 1024"},
        {name + 1, 1, 0, corrupt, "snapshot name 'f\\x00rst' has a NUL", true},
        {name - 1, 1, 0, corrupt, "snapshot id '\\x00' has a NUL", true},
        {second + 12, 2, 65535, corrupt, "the entry at", true},
        {second + 14, 2, 65535, corrupt, "the entry at", true},
    });
    expect_damage_refused(bytes, damages);
}

TEST(SnapshotTable, CutShort) {
    const Bytes& whole = image();
    for (std::size_t size = whole.size() - 140; size < whole.size(); ++size)
        expect_refused(Bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size)), corrupt, "");
}

TEST(SnapshotTable, TooLargeToBeRead) {
    // Entries with the longest names: 33 of them are more than 4 MiB.
    Bytes bytes = created("1M");
    const std::size_t begin = 1U << 20;
    const std::size_t entry = 40 + 16 + 65535 + 65535 + 2;
    constexpr std::uint32_t count = 33;
    bytes.resize(begin + count * entry, std::byte{'x'});
    put(bytes, 60, count);
    put(bytes, 64, std::uint64_t{begin});
    for (std::size_t i = 0; i < count; ++i) {
        put(bytes, begin + i * entry, std::uint64_t{0});
        put(bytes, begin + i * entry + 8, std::uint32_t{0});
        put(bytes, begin + i * entry + 12, UINT32_MAX);
        put(bytes, begin + i * entry + 36, std::uint32_t{16});
    }
    expect_refused(bytes, ErrorCode::unsupported, "more than 4194304 bytes");
    put(bytes, 60, count - 2);
    EXPECT_EQ(snapshots_of(bytes).size(), count - 2);
    EXPECT_EQ(snapshots_of(bytes)[30].name, std::string(65535, 'x'));
}

}  // namespace
}  // namespace volchain::qcow2::snapshot_table_test
