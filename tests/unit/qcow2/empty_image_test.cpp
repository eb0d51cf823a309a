// SPDX-License-Identifier: MIT
//
// The images that empty_image() makes, held to qemu-img: it finds nothing to complain of, reads them as
// we do, makes the same bytes itself, and they work when they are written to.
#include "qcow2/empty_image.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "base/unique_fd.h"
#include "qcow2/allocation.h"
#include "qcow2/limits.h"
#include "support.h"

namespace volchain::qcow2::empty_image_test {
namespace {

constexpr std::uint64_t gib = std::uint64_t{1} << 30;
constexpr std::uint64_t tib = std::uint64_t{1} << 40;

void write_image(const std::string& path, const EmptyImage& image) {
    const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    std::uint64_t end = 0;
    for (const Extent& extent : image.extents) {
        EXPECT_GE(extent.offset, end);
        end = extent.offset + extent.bytes.size();
        write_at(fd.get(), extent.bytes, extent.offset);
    }
    EXPECT_LE(end, image.length);
    ASSERT_EQ(::ftruncate(fd.get(), static_cast<off_t>(image.length)), 0);
    const FileSource source(fd.get());
    EXPECT_FALSE(has_data(source, read_header(source)));
}

void expect_clean(const std::string& path) {
    const Outcome check = run({"qemu-img", "check", "--output=json", "-f", "qcow2", path});
    EXPECT_EQ(check.status, 0) << path << "\n" << check.output << check.errors;
    const Json result = Json::parse(check.output);
    EXPECT_FALSE(result.contains("leaks")) << check.output;
    EXPECT_FALSE(result.contains("corruptions")) << check.output;
}

/// Writes the image, holds it to qemu-img, and writes into it as a guest would.
void expect_good(const std::string& path, const EmptyImageOptions& options) {
    SCOPED_TRACE(fmt::format("size {}, clusters {}, refcounts {}, extended {}", options.virtual_size,
                             options.cluster_size, options.refcount_bits, options.extended_l2));
    write_image(path, empty_image(options));
    expect_as_qemu_says(path);
    expect_clean(path);
    const Header header = header_of_file(path);
    EXPECT_EQ(header.virtual_size, options.virtual_size);
    EXPECT_EQ(header.cluster_size(), options.cluster_size);
    EXPECT_EQ(header.refcount_bits(), options.refcount_bits);
    EXPECT_EQ(header.features.extended_l2, options.extended_l2);
    EXPECT_EQ(header.features.lazy_refcounts, options.lazy_refcounts);
    EXPECT_EQ(header.compression, options.compression);
    EXPECT_EQ(header.backing_file, options.backing_file);
    EXPECT_EQ(header.backing_format, options.backing_format);
    if (options.virtual_size == 0) return;
    const std::string last = fmt::format("write -P 2 {} 512", options.virtual_size - 512);
    run_well({"qemu-io", "-f", "qcow2", "-c", "write -P 1 0 512", "-c", last, path});
    expect_clean(path);
}

std::uint64_t largest(std::uint64_t cluster_size, bool extended_l2) {
    const std::uint64_t entries = cluster_size / (extended_l2 ? 16 : 8);
    return max_l1_bytes / table_entry_bytes * entries * cluster_size;
}

TEST(EmptyImage, EachClusterSize) {
    const TemporaryDirectory directory;
    for (std::uint64_t cluster = 512; cluster <= 2U << 20; cluster *= 2) {
        EmptyImageOptions options(gib);
        options.cluster_size = cluster;
        for (const std::uint64_t size : {std::uint64_t{0}, std::uint64_t{512}, gib + 512}) {
            options.virtual_size = size;
            expect_good(directory / "image", options);
        }
        if (cluster < 16384) continue;
        options.extended_l2 = true;
        expect_good(directory / "image", options);
    }
}

TEST(EmptyImage, EachRefcountWidth) {
    const TemporaryDirectory directory;
    for (std::uint32_t bits = 1; bits <= 64; bits *= 2) {
        for (const std::uint64_t cluster : {512U, 65536U}) {
            EmptyImageOptions options(10 * gib);
            options.refcount_bits = bits;
            options.cluster_size =
                cluster;  // 512: the L1 table takes 5,120 clusters, their counts many blocks
            expect_good(directory / "image", options);
        }
    }
}

TEST(EmptyImage, EachCombinationOfFeatures) {
    const TemporaryDirectory directory;
    create(directory / "base", "1M");
    run_well({"qemu-io", "-c", "write -P 7 0 1M", directory / "base"});
    for (int features = 0; features < 16; ++features) {
        EmptyImageOptions options(1U << 20);
        options.extended_l2 = (features & 1) != 0;
        options.lazy_refcounts = (features & 2) != 0;
        options.compression = (features & 4) != 0 ? Compression::zstd : Compression::zlib;
        if ((features & 8) != 0) options.on("base", "qcow2");
        expect_good(directory / "image", options);
        // What was not written comes from below, and compressed clusters can be read back.
        run_well({"qemu-io", "-f", "qcow2", "-c", "write -c -P 5 64k 64k", "-c", "read -P 5 64k 64k", "-c",
                  fmt::format("read -P {} 512 1024", options.backing_file ? 7 : 0), directory / "image"});
        expect_clean(directory / "image");
    }
}

TEST(EmptyImage, OverlayReadsAsItsBackingFile) {
    const TemporaryDirectory directory;
    create(directory / "base", "3M");
    run_well({"qemu-io", "-c", "write -P 7 1M 1M", directory / "base"});
    write_image(directory / "top", empty_image(EmptyImageOptions(3U << 20).on("base", "qcow2")));
    run_well(
        {"qemu-img", "compare", "-q", "-f", "qcow2", "-F", "qcow2", directory / "base", directory / "top"});
}

TEST(EmptyImage, LargestSizes) {
    const TemporaryDirectory directory;
    for (const std::uint64_t cluster : {512U, 65536U, 2U << 20}) {
        EmptyImageOptions options(largest(cluster, false));
        options.cluster_size = cluster;
        options.refcount_bits = cluster == 512 ? 64 : 16;  // 1,170 refcount blocks
        expect_good(directory / "image", options);
        options.virtual_size += 512;
        EXPECT_EQ(error_of([&] { (void)empty_image(options); })->code(), ErrorCode::invalid_argument);
    }
    EmptyImageOptions extended(largest(16384, true));
    extended.cluster_size = 16384;
    extended.extended_l2 = true;
    expect_good(directory / "image", extended);
    expect_good(directory / "image", EmptyImageOptions(64 * tib));
    expect_good(directory / "image", EmptyImageOptions(100 * tib + 512));
}

TEST(EmptyImage, SameBytesAsQemuImgCreate) {
    const TemporaryDirectory directory;
    const auto expect_same = [&](const EmptyImageOptions& ours, std::string_view theirs) {
        Words more;
        if (ours.backing_file) more = {"-u", "-b", *ours.backing_file, "-F", *ours.backing_format};
        create(directory / "theirs", std::to_string(ours.virtual_size), theirs, more);
        write_image(directory / "ours", empty_image(ours));
        EXPECT_EQ(load(directory / "ours"), load(directory / "theirs")) << theirs;
    };
    EmptyImageOptions options(gib);
    expect_same(options, "");
    expect_same(EmptyImageOptions(gib).on("/a/base.qcow2", "qcow2"), "");
    expect_same(EmptyImageOptions(10 * tib).on("base", "raw"), "");
    options.cluster_size = 4096;
    expect_same(options, "cluster_size=4k");
    options.cluster_size = 8192;
    expect_same(options, "cluster_size=8k");
    options.cluster_size = 2U << 20;
    options.refcount_bits = 64;
    options.lazy_refcounts = true;
    expect_same(options, "cluster_size=2M,refcount_bits=64,lazy_refcounts=on");
    options = EmptyImageOptions(gib);
    options.refcount_bits = 1;
    options.compression = Compression::zstd;
    options.extended_l2 = true;
    expect_same(options, "refcount_bits=1,compression_type=zstd,extended_l2=on");
}

TEST(EmptyImage, BackingNames) {
    const TemporaryDirectory directory;
    const auto made = [&](std::uint64_t cluster, const std::string& name) {
        EmptyImageOptions options(1U << 20);
        options.cluster_size = cluster;
        return empty_image(options.on(name, "qcow2"));
    };
    for (const std::string& name :
         {std::string(1023, 'x'), std::string("caf\xc3\xa9 a:b"), std::string("\xff\n")}) {
        write_image(directory / "image", made(65536, name));
        EXPECT_EQ(header_of_file(directory / "image").backing_file, name);
        expect_as_qemu_says(directory / "image");
    }
    // 112 bytes of header, 16 of backing format, 8 of end marker: 376 are left of 512.
    write_image(directory / "image", made(512, std::string(376, 'x')));
    expect_as_qemu_says(directory / "image");
    const auto error = error_of([&] { (void)made(512, std::string(377, 'x')); });
    ASSERT_TRUE(error);
    EXPECT_EQ(error->code(), ErrorCode::invalid_argument);
    EXPECT_NE(std::string_view(error->what()).find("513 bytes does not fit"), std::string_view::npos);
}

TEST(EmptyImage, LabelIsKeptByQemu) {
    const TemporaryDirectory directory;
    create(directory / "below", "1M");
    EmptyImageOptions options(1U << 20);
    options.on("below", "qcow2");
    options.label = "vc.1795997186866548.sunday";
    write_image(directory / "image", empty_image(options));
    EXPECT_EQ(header_of_file(directory / "image").label, options.label);
    // QEMU writes the header anew.
    run_well({"qemu-img", "bitmap", "--add", "-f", "qcow2", directory / "image", "b0"});
    run_well({"qemu-img", "rebase", "-u", "-f", "qcow2", "-b", "other", "-F", "qcow2", directory / "image"});
    EXPECT_EQ(header_of_file(directory / "image").label, options.label);
    EXPECT_EQ(header_of_file(directory / "image").backing_file, "other");
}

TEST(EmptyImage, ImpossibleOptionsAreRefused) {
    const auto expect_invalid = [](const std::function<void(EmptyImageOptions&)>& change,
                                   std::string_view part) {
        EmptyImageOptions options(gib);
        change(options);
        const auto error = error_of([&] { (void)empty_image(options); });
        ASSERT_TRUE(error) << part;
        EXPECT_EQ(error->code(), ErrorCode::invalid_argument);
        EXPECT_NE(std::string_view(error->what()).find(part), std::string_view::npos) << error->what();
    };
    using Options = EmptyImageOptions;
    for (const std::uint64_t size : {std::uint64_t{0}, std::uint64_t{256}, std::uint64_t{1000},
                                     std::uint64_t{4U << 20}, std::uint64_t{1} << 63, std::uint64_t{1} << 32})
        expect_invalid([&](Options& o) { o.cluster_size = size; }, "cluster size");
    for (const std::uint32_t bits : {0U, 3U, 128U, 1U << 31})
        expect_invalid([&](Options& o) { o.refcount_bits = bits; }, "refcount width");
    expect_invalid([](Options& o) { o.virtual_size = 1; }, "not a multiple of 512");
    expect_invalid([](Options& o) { o.virtual_size = UINT64_MAX - 511; }, "too many");
    expect_invalid([](Options& o) { o.virtual_size = std::uint64_t{1} << 63; }, "too many");
    expect_invalid([](Options& o) { o.cluster_size = 8192, o.extended_l2 = true; }, "16 KiB");
    expect_invalid([](Options& o) { o.backing_file = "x"; }, "go together");
    expect_invalid([](Options& o) { o.backing_format = "raw"; }, "go together");
    expect_invalid([](Options& o) { o.on("", "raw"); }, "backing file name has 0 bytes");
    expect_invalid([](Options& o) { o.on(std::string(1024, 'x'), "raw"); },
                   "backing file name has 1024 bytes");
    expect_invalid([](Options& o) { o.on(std::string("a\0b", 3), "raw"); }, "NUL");
    expect_invalid([](Options& o) { o.label = std::string(1024, 'x'); }, "label has 1024 bytes");
    expect_invalid([](Options& o) { o.on("x", ""); }, "backing format has 0 bytes");
    expect_invalid([](Options& o) { o.on("x", "0123456789abcdef"); }, "backing format has 16 bytes");
}

}  // namespace
}  // namespace volchain::qcow2::empty_image_test
