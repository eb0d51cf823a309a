// SPDX-License-Identifier: MIT
//
// What read_header() says of images that QEMU made, held against what QEMU says of them.
#include "qcow2/header.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/unique_fd.h"
#include "qcow2/allocation.h"
#include "qcow2/limits.h"
#include "support.h"

namespace volchain::qcow2::header_test {
namespace {

class CreatedByQemu : public testing::TestWithParam<const char*> {};

TEST_P(CreatedByQemu, ReadsAsQemuSays) {
    const TemporaryDirectory directory;
    create(directory / "image", "1G", GetParam());
    expect_as_qemu_says(directory / "image");
    const Header header = header_of_file(directory / "image");
    EXPECT_EQ(header.snapshot_count, 0U);
    EXPECT_FALSE(header.bitmaps);
    EXPECT_TRUE(header.features.unknown.empty());
}

INSTANTIATE_TEST_SUITE_P(
    Options, CreatedByQemu,
    testing::Values("compat=0.10", "compat=1.1", "compat=0.10,cluster_size=512",
                    "compat=0.10,cluster_size=2M", "cluster_size=512", "cluster_size=1k", "cluster_size=4k",
                    "cluster_size=8k", "cluster_size=2M", "refcount_bits=1", "refcount_bits=2",
                    "refcount_bits=4", "refcount_bits=8", "refcount_bits=32", "refcount_bits=64",
                    "refcount_bits=64,cluster_size=512", "extended_l2=on", "extended_l2=on,cluster_size=16k",
                    "extended_l2=on,cluster_size=2M", "compression_type=zstd",
                    "compression_type=zstd,extended_l2=on,lazy_refcounts=on", "lazy_refcounts=on",
                    "preallocation=metadata", "preallocation=metadata,compat=0.10"));

TEST(Header, SizesAsQemuSays) {
    const TemporaryDirectory directory;
    for (const char* size : {"0", "512", "1000", "65536", "1048577", "3T", "64T"}) {
        create(directory / size, size);
        expect_as_qemu_says(directory / size);
    }
    create(directory / "largest", "2305843009213693952", "cluster_size=2M");
    expect_as_qemu_says(directory / "largest");
}

TEST(Header, BackingFileWithAndWithoutFormat) {
    const TemporaryDirectory directory;
    create(directory / "base", "1M");
    create(directory / "top", "", "", {"-b", "base", "-F", "qcow2"});
    expect_as_qemu_says(directory / "top");
    EXPECT_EQ(header_of_file(directory / "top").backing_file, "base");
    EXPECT_EQ(header_of_file(directory / "top").backing_format, "qcow2");

    create(directory / "top-v2", "", "compat=0.10", {"-b", "base", "-F", "qcow2"});
    expect_as_qemu_says(directory / "top-v2");
    EXPECT_EQ(header_of_file(directory / "top-v2").backing_format, "qcow2");

    // qemu-img no longer makes images whose backing format is not told, but there are old ones.
    Bytes bytes = load(directory / "top");
    put(bytes, 112, std::uint32_t{0x12345678});  // the backing format becomes an unknown extension
    store(directory / "old", bytes);
    expect_as_qemu_says(directory / "old");
    EXPECT_EQ(header_of(bytes).backing_file, "base");
    EXPECT_EQ(header_of(bytes).backing_format, std::nullopt);
}

TEST(Header, BackingFileRemoved) {
    const TemporaryDirectory directory;
    create(directory / "base", "1M");
    create(directory / "top", "", "", {"-b", directory / "base", "-F", "qcow2"});
    run_well({"qemu-img", "rebase", "-u", "-b", "", directory / "top"});
    expect_as_qemu_says(directory / "top");
    EXPECT_FALSE(header_of_file(directory / "top").backing_file);
}

TEST(Header, AnyBackingNameIsReportedAsItIs) {
    const TemporaryDirectory directory;
    const std::string longest(max_backing_name_bytes, 'x');
    for (const std::string& name :
         {std::string("caf\xc3\xa9 \xe6\x97\xa5\xe6\x9c\xac.qcow2"), std::string("/a b/\n"), longest,
          std::string("json:{\"driver\":\"null-co\"}"), std::string("nbd://localhost:10809/x"),
          std::string("a:b:c")}) {
        create(directory / "image", "1M", "", {"-u", "-b", name, "-F", "raw"});
        expect_as_qemu_says(directory / "image");
        EXPECT_EQ(header_of_file(directory / "image").backing_file, name);
    }
}

TEST(Header, BackingNameNeedNotBeUtf8) {
    Bytes bytes = created("1M", "", {"-u", "-b", "name", "-F", "raw"});
    put(bytes, get<std::uint64_t>(bytes, 8), std::uint32_t{0xfffe80c0});
    EXPECT_EQ(header_of(bytes).backing_file, "\xff\xfe\x80\xc0");
}

TEST(Header, DataFile) {
    const TemporaryDirectory directory;
    for (const char* raw : {"", ",data_file_raw=on"}) {
        create(directory / "image", "1M", "data_file=" + directory / "data" + raw);
        expect_as_qemu_says(directory / "image");
        const Header header = header_of_file(directory / "image");
        EXPECT_TRUE(header.features.external_data_file);
        EXPECT_EQ(header.data_file, directory / "data");
    }
}

TEST(Header, Encryption) {
    const TemporaryDirectory directory;
    store(directory / "luks", luks_image());
    expect_as_qemu_says(directory / "luks");
    const Header luks = header_of_file(directory / "luks");
    ASSERT_TRUE(luks.encryption_header);
    EXPECT_GE(luks.encryption_header->bytes, 592U);

    create(directory / "aes", "1M", "encrypt.format=aes,encrypt.key-secret=key",
           {"--object", "secret,id=key,data=secret"});
    expect_as_qemu_says(directory / "aes");
    EXPECT_FALSE(header_of_file(directory / "aes").encryption_header);
}

TEST(Header, DirtyAndCorruptImages) {
    const TemporaryDirectory directory;
    Bytes bytes = created("1M", "lazy_refcounts=on");
    put(bytes, 72, incompatible_dirty);
    store(directory / "dirty", bytes);
    expect_as_qemu_says(directory / "dirty");
    put(bytes, 72, incompatible_corrupt);
    store(directory / "corrupt", bytes);
    expect_as_qemu_says(directory / "corrupt");
    EXPECT_TRUE(header_of(bytes).features.corrupt);
}

TEST(Header, UnknownFeaturesAreToldWithTheirNames) {
    Bytes bytes = created("1M");
    // The entry of "lazy refcounts" becomes that of compatible bit 5, and that of "bitmaps" autoclear bit 63.
    const std::size_t names = 112 + 8;
    put(bytes, names + 5 * 48 + 1, std::uint8_t{5});
    put(bytes, names + 6 * 48 + 1, std::uint8_t{63});
    put(bytes, 80, std::uint64_t{0b110'0000});
    put(bytes, 88, std::uint64_t{1} << 63);
    const auto unknown = header_of(bytes).features.unknown;
    ASSERT_EQ(unknown.size(), 3U);
    EXPECT_EQ(unknown[0].kind, FeatureKind::compatible);
    EXPECT_EQ(unknown[0].bit, 5U);
    EXPECT_EQ(unknown[0].name, "lazy refcounts");
    EXPECT_EQ(unknown[1].bit, 6U);
    EXPECT_EQ(unknown[1].name, "");
    EXPECT_EQ(unknown[2].kind, FeatureKind::autoclear);
    EXPECT_EQ(unknown[2].bit, 63U);
    EXPECT_EQ(unknown[2].name, "bitmaps");
    EXPECT_EQ(name(unknown[2].kind), "autoclear");
}

TEST(Header, UnknownIncompatibleFeatureIsRefusedByName) {
    Bytes bytes = created("1M");
    put(bytes, 72, std::uint64_t{1} << 7 | std::uint64_t{1} << 40);
    expect_refused(bytes, ErrorCode::unsupported, "bit 7, bit 40");
    put(bytes, 112 + 8 + 2 * 48 + 1, std::uint8_t{40});
    expect_refused(bytes, ErrorCode::unsupported, "bit 7, 'external data file' (bit 40)");
    // A damaged extension area, or none in the file, does not change that answer.
    put(bytes, 112 + 4, std::uint32_t{0xffffffff});
    expect_refused(bytes, ErrorCode::unsupported, "bit 7, bit 40");
    bytes.resize(112);
    expect_refused(bytes, ErrorCode::unsupported, "bit 7, bit 40");
}

TEST(Header, FileSourceTakesFilesAndNothingElse) {
    const TemporaryDirectory directory;
    ASSERT_EQ(::mkfifo((directory / "fifo").c_str(), 0600), 0);
    const UniqueFd fifo(::open((directory / "fifo").c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    const auto error = error_of([&] { const FileSource source(fifo.get()); });
    ASSERT_TRUE(error);
    EXPECT_EQ(error->code(), ErrorCode::unsafe_image);
    EXPECT_TRUE(error_of([] { const FileSource source(-1); }));
}

TEST(Header, FileThatShrinksWhileItIsReadIsCorrupt) {
    const TemporaryDirectory directory;
    create(directory / "image", "1M");
    const UniqueFd fd(::open((directory / "image").c_str(), O_RDWR | O_CLOEXEC));
    const FileSource source(fd.get());
    const Header header = read_header(source);
    ASSERT_EQ(::ftruncate(fd.get(), 100), 0);
    EXPECT_EQ(source.size(), 100U);
    EXPECT_EQ(error_of([&] { (void)has_data(source, header); })->code(), ErrorCode::corrupt_image);
}

TEST(Header, EntriesOfTheL1Table) {
    EXPECT_EQ(l1_entries_for(0, 16, false), 0U);
    EXPECT_EQ(l1_entries_for(1, 16, false), 1U);
    EXPECT_EQ(l1_entries_for(std::uint64_t{1} << 29, 16, false), 1U);
    EXPECT_EQ(l1_entries_for((std::uint64_t{1} << 29) + 1, 16, false), 2U);
    EXPECT_EQ(l1_entries_for(std::uint64_t{1} << 29, 16, true), 2U);
    EXPECT_EQ(l1_entries_for(UINT64_MAX, 9, false), std::uint64_t{1} << 49);
    EXPECT_EQ(l1_entries_for(UINT64_MAX, 21, false), std::uint64_t{1} << 25);
}

}  // namespace
}  // namespace volchain::qcow2::header_test
