// SPDX-License-Identifier: MIT
#include "qcow2/bitmap_directory.h"

#include <gtest/gtest.h>

#include <array>

#include "qcow2/limits.h"
#include "support.h"

namespace volchain::qcow2::bitmap_directory_test {
namespace {

constexpr auto corrupt = ErrorCode::corrupt_image;
constexpr auto unsupported = ErrorCode::unsupported;

std::vector<Bitmap> bitmaps_of(const Bytes& bytes) {
    const MemorySource source(bytes);
    return read_bitmaps(source, read_header(source));
}

/// Two bitmaps: "first", recording, granularity 64 KiB, and "second", disabled, granularity 4 KiB.
const Bytes& image() {
    static const Bytes bytes = [] {
        const TemporaryDirectory directory;
        const std::string path = directory / "image";
        create(path, "1G");
        run_well({"qemu-img", "bitmap", "--add", path, "first"});
        run_well({"qemu-img", "bitmap", "--add", "--disable", "-g", "4096", path, "second"});
        return load(path);
    }();
    return bytes;
}

std::size_t directory_of(const Bytes& bytes) {
    return static_cast<std::size_t>(
        get<std::uint64_t>(bytes, extension_at(bytes, extension_bitmaps) + 8 + 16));
}

TEST(BitmapDirectory, AsQemuSays) {
    const TemporaryDirectory directory;
    store(directory / "image", image());
    expect_as_qemu_says(directory / "image");
    const auto bitmaps = bitmaps_of(image());
    ASSERT_EQ(bitmaps.size(), 2U);
    EXPECT_EQ(bitmaps[0].name, "first");
    EXPECT_EQ(bitmaps[0].granularity, 65536U);
    EXPECT_TRUE(bitmaps[0].recording);
    EXPECT_FALSE(bitmaps[0].in_use);
    EXPECT_FALSE(bitmaps[1].recording);
    EXPECT_EQ(bitmaps[1].table.bytes, 8U);
}

TEST(BitmapDirectory, ManyWithAllKindsOfNamesAndGranularities) {
    const TemporaryDirectory directory;
    const std::string path = directory / "image";
    create(path, "10M", "cluster_size=512");
    const std::string longest(max_bitmap_name_bytes, 'n');
    for (const std::string& name : {std::string("caf\xc3\xa9"), std::string("a:b/c d"), longest})
        run_well({"qemu-img", "bitmap", "--add", path, name});
    for (std::uint32_t bits = 9; bits <= 31; ++bits)
        run_well(
            {"qemu-img", "bitmap", "--add", "-g", std::to_string(1U << bits), path, std::to_string(bits)});
    expect_as_qemu_says(path);
    EXPECT_EQ(bitmaps_of(load(path)).size(), 26U);
    run_well({"qemu-img", "bitmap", "--remove", path, longest});
    expect_as_qemu_says(path);
}

TEST(BitmapDirectory, GoneWithTheLastBitmap) {
    const TemporaryDirectory directory;
    const std::string path = directory / "image";
    store(path, image());
    run_well({"qemu-img", "bitmap", "--remove", path, "first"});
    run_well({"qemu-img", "bitmap", "--remove", path, "second"});
    expect_as_qemu_says(path);
    EXPECT_FALSE(header_of_file(path).bitmaps);
    EXPECT_FALSE(header_of_file(path).stale_bitmaps);
}

TEST(BitmapDirectory, SizesOfTablesFollowTheDisk) {
    const TemporaryDirectory directory;
    const std::string path = directory / "image";
    for (const char* size : {"512", "32M", "33554944", "1000M"}) {
        create(path, size, "cluster_size=512");
        for (const char* granularity : {"512", "65536", "2147483648"})
            run_well({"qemu-img", "bitmap", "--add", "-g", granularity, path, granularity});
        expect_as_qemu_says(path);
        EXPECT_EQ(bitmaps_of(load(path)).size(), 3U) << size;
    }
}

TEST(BitmapDirectory, InUseIsToldAndItsTableMayBeOfAnotherSize) {
    const TemporaryDirectory directory;
    Bytes bytes = image();
    const std::size_t entry = directory_of(bytes);
    put(bytes, entry + 12, std::uint32_t{3});
    put(bytes, entry + 8, std::uint32_t{2});
    store(directory / "image", bytes);
    expect_as_qemu_says(directory / "image");
    EXPECT_TRUE(bitmaps_of(bytes)[0].in_use);
    EXPECT_TRUE(bitmaps_of(bytes)[0].recording);
}

TEST(BitmapDirectory, StaleWithoutItsFeatureBit) {
    Bytes bytes = image();
    put(bytes, 88, std::uint64_t{0});
    put(bytes, extension_at(bytes, extension_bitmaps) + 8, std::uint32_t{0});  // not even looked at
    EXPECT_TRUE(header_of(bytes).stale_bitmaps);
    EXPECT_FALSE(header_of(bytes).bitmaps);
    EXPECT_TRUE(bitmaps_of(bytes).empty());
}

TEST(BitmapDirectory, DamagedExtension) {
    const Bytes& bytes = image();
    const std::size_t at = extension_at(bytes, extension_bitmaps) + 8;
    const auto damages = std::to_array<Damage>({
        {at - 4, 4, 16, corrupt, "has 16 bytes, not 24"},
        {at, 4, 0, corrupt, "0 bitmaps, not 1 to 65535"},
        {at, 4, 1, corrupt, "32 bytes after its 1 entries"},
        {at, 4, 3, corrupt, "directory of 3 bitmaps has 64 bytes"},
        {at, 4, 65536, corrupt, "65536 bitmaps"},
        {at + 4, 4, 1, corrupt, "reserved"},
        {at + 8, 8, 0, corrupt, "directory of 2 bitmaps has 0 bytes"},
        {at + 8, 8, 63, corrupt, "directory of 2 bitmaps has 63 bytes"},
        {at + 8, 8, 72, corrupt, "does not lie within the file"},
        {at + 8, 8, 1024 * 65535 + 1, corrupt, "has 67107841 bytes"},
        {at + 8, 8, UINT64_MAX, corrupt, "has 18446744073709551615 bytes"},
        {at + 16, 8, 0, corrupt, "inside the header's cluster"},
        {at + 16, 8, 512, corrupt, "not on a boundary"},
        {at + 16, 8, 65536, corrupt, "lie over each other"},
        {at + 16, 8, std::uint64_t{1} << 40, corrupt, "does not lie within the file"},
        {at + 16, 8, UINT64_MAX - 65535, corrupt, "does not lie within the file"},
    });
    expect_damage_refused(bytes, damages);
}

TEST(BitmapDirectory, DamagedEntries) {
    const Bytes& bytes = image();
    const std::size_t first = directory_of(bytes);
    const std::size_t second = first + 32;
    const auto damages = std::to_array<Damage>({
        {first, 8, 0, corrupt, "bitmap table begins at offset 0"},
        {first, 8, 8, corrupt, "not on a boundary"},
        {first, 8, std::uint64_t{1} << 40, corrupt, "does not lie within the file", true},
        {first, 8, UINT64_MAX - 65535, corrupt, "does not lie within the file"},
        {first + 8, 4, 0, corrupt, "has 0 entries"},
        {first + 8, 4, 2, corrupt, "has 2 entries, but the disk's 1073741824 bytes need 1"},
        {first + 8, 4, 8193, corrupt, "has 8193 entries, not 1 to 8192"},
        {first + 8, 4, UINT32_MAX, corrupt, "has 4294967295 entries"},
        {first + 12, 4, 4, unsupported, "flags that are not known here: 0x4"},
        {first + 12, 4, 1U << 31, unsupported, "flags"},
        {first + 16, 1, 0, unsupported, "type 0"},
        {first + 16, 1, 2, unsupported, "type 2"},
        {first + 17, 1, 8, unsupported, "granularity 2^8"},
        {first + 17, 1, 32, unsupported, "granularity 2^32"},
        {first + 17, 1, 255, unsupported, "granularity 2^255"},
        {first + 18, 2, 0, corrupt, "name has 0 bytes"},
        {first + 18, 2, 1024, corrupt, "name has 1024 bytes"},
        {first + 18, 2, 100, corrupt, "bitmap directory ends"},
        {first + 20, 4, 8, unsupported, "8 bytes of extra data"},
        {first + 20, 4, UINT32_MAX, unsupported, "bytes of extra data"},
        {first + 26, 1, 0, corrupt, "NUL", true},
        {second + 18, 2, 9, corrupt, "bitmap directory ends"},
    });
    expect_damage_refused(bytes, damages);
}

TEST(BitmapDirectory, TablesOverOtherStructures) {
    const std::size_t first = directory_of(image());
    const auto places = std::to_array<std::pair<std::size_t, const char*>>({
        {40, "L1 table"},
        {48, "refcount table"},
        {first + 32, "bitmap table"},  // that of the second bitmap
        {extension_at(image(), extension_bitmaps) + 8 + 16, "bitmap directory"},
    });
    for (const auto& [place, name] : places) {
        Bytes bytes = image();
        put(bytes, first, get<std::uint64_t>(bytes, place));
        expect_refused(bytes, corrupt, name);
        expect_refused(bytes, corrupt, "lie over each other");
    }
}

TEST(BitmapDirectory, SameNameTwice) {
    Bytes bytes = image();
    const std::size_t first = directory_of(bytes);
    put(bytes, first + 18, std::uint16_t{6});
    put_text(bytes, first + 24, "second");
    expect_refused(bytes, corrupt, "more than one bitmap 'second'");
}

TEST(BitmapDirectory, TooLargeToBeRead) {
    Bytes bytes = image();
    const std::size_t at = extension_at(bytes, extension_bitmaps) + 8;
    bytes.resize(8U << 20);
    put(bytes, at + 8, max_bitmap_directory_bytes + 8);
    put(bytes, at + 16, std::uint64_t{1} << 20);
    EXPECT_TRUE(header_of(bytes).bitmaps);
    expect_refused(bytes, unsupported, "more than 4194304");
}

}  // namespace
}  // namespace volchain::qcow2::bitmap_directory_test
