// SPDX-License-Identifier: MIT
//
// Maps of images that QEMU wrote, held to what "qemu-img map" says of them.
#include "qcow2/layer_map.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <random>
#include <thread>

#include "base/unique_fd.h"
#include "support.h"

namespace volchain::qcow2::layer_map_test {
namespace {

constexpr std::uint64_t mib = 1U << 20;
constexpr std::uint64_t tib = std::uint64_t{1} << 40;

using Extents = std::vector<LayerExtent>;

/// Adds an extent as a map has it, joined to the one before where they are alike.
void join(Extents& extents, const LayerExtent& extent) {
    if (!extents.empty() && extents.back().kind == extent.kind && extents.back().in_place == extent.in_place)
        extents.back().length += extent.length;
    else
        extents.push_back(extent);
}

/// What QEMU does not tell of an absent extent is left out.
Extents without_places_of_absent(const Extents& extents) {
    Extents result;
    for (LayerExtent extent : extents) {
        if (extent.kind == LayerKind::absent) extent.in_place = false;
        join(result, extent);
    }
    return result;
}

/// What QEMU finds in the image itself (depth 0). It tells the place of what is neither compressed nor
/// without one.
Extents map_of_qemu(const std::string& path) {
    Extents extents;
    for (const Json& entry :
         Json::parse(run_well({"qemu-img", "map", "--output=json", "-f", "qcow2", path}))) {
        LayerExtent extent{entry.at("start").get<std::uint64_t>(), entry.at("length").get<std::uint64_t>(),
                           LayerKind::absent, false};
        if (entry.at("depth").get<int>() == 0 && entry.at("present").get<bool>()) {
            extent.kind = entry.at("data").get<bool>() ? LayerKind::data : LayerKind::zero;
            extent.in_place = entry.contains("offset");
        }
        join(extents, extent);
    }
    return extents;
}

std::string described(const Extents& extents) {
    std::string text;
    for (const LayerExtent& extent : extents)
        text += fmt::format("{} + {}: {}{}\n", extent.offset, extent.length,
                            std::array{"data", "zero", "absent"}.at(static_cast<std::size_t>(extent.kind)),
                            extent.in_place ? ", in place" : "");
    return text;
}

void expect_whole(const Extents& extents, std::uint64_t size) {
    std::uint64_t end = 0;
    for (const LayerExtent& extent : extents) {
        EXPECT_EQ(extent.offset, end);
        EXPECT_GT(extent.length, 0U);
        end += extent.length;
    }
    EXPECT_EQ(end, size);
    Extents joined;
    for (const LayerExtent& extent : extents) join(joined, extent);
    EXPECT_EQ(joined, extents);
}

void expect_as_qemu_maps(const std::string& path) {
    SCOPED_TRACE(path);
    const Extents extents = extents_of_file(path);
    expect_whole(extents, header_of_file(path).virtual_size);
    EXPECT_EQ(described(without_places_of_absent(extents)), described(map_of_qemu(path)));
}

struct Shape {
    const char* options;
    std::uint64_t cluster_size;
    std::uint64_t
        size;  // of the disk: a few L2 tables where that is not too much, and no whole cluster at the end
};

constexpr auto shapes = std::to_array<Shape>({
    {"", 65536, 20 * mib + 512},
    {"cluster_size=512", 512, mib / 4 + 1024},
    {"cluster_size=512,compat=0.10", 512, mib / 4},
    {"cluster_size=4096", 4096, 9 * mib - 512},
    {"cluster_size=2M", 2 * mib, 33 * mib + 512},
    {"extended_l2=on", 65536, 20 * mib + 3584},
    {"extended_l2=on,cluster_size=16k", 16384, 40 * mib + 512},
    {"extended_l2=on,cluster_size=2M", 2 * mib, 33 * mib + 512},
    {"compat=0.10", 65536, 20 * mib + 512},
    {"compression_type=zstd", 65536, 20 * mib + 512},
});

/// Compressed clusters here and there, the same for the same seed. They can only be written where nothing is.
void compress(const std::string& path, const Shape& shape, unsigned seed) {
    std::mt19937_64 random(seed);
    const std::uint64_t whole = shape.size / shape.cluster_size;
    Words words{"qemu-io", "-t", "unsafe", "-f", "qcow2"};
    for (std::uint64_t cluster = random() % 3; cluster < whole; cluster += 1 + random() % (1 + whole / 4))
        words.insert(words.end(),
                     {"-c", fmt::format("write -c {} {}", cluster * shape.cluster_size, shape.cluster_size)});
    words.push_back(path);
    run_well(words);
}

/// Changes of all other kinds, at places where anything may begin and end.
void scribble(const std::string& path, const Shape& shape, unsigned seed) {
    std::mt19937_64 random(seed);
    const auto below = [&](std::uint64_t limit) { return random() % limit; };
    Words words{"qemu-io", "-t", "unsafe", "-f", "qcow2"};
    for (int i = 0; i < 40; ++i) {
        const std::string verb =
            std::array{"write", "write", "write -z", "write -z -u", "discard"}.at(below(5));
        const std::uint64_t unit = std::array{shape.cluster_size, shape.cluster_size, std::uint64_t{512}}.at(
            verb == "discard" ? below(2) : below(3));
        const std::uint64_t offset = below(shape.size / unit) * unit;
        const std::uint64_t length = std::min(shape.size - offset, (1 + below(6)) * unit);
        words.insert(words.end(), {"-c", fmt::format("{} {} {}", verb, offset, length)});
    }
    words.push_back(path);
    run_well(words);
}

TEST(LayerMap, NewImagesHoldNothing) {
    for (const char* options : {"", "compat=0.10", "cluster_size=512", "extended_l2=on"}) {
        const Bytes bytes = created("64M", options);
        const MemorySource source(bytes);
        Qcow2LayerMap map(source, read_header(source));
        EXPECT_EQ(map.virtual_size(), 64 * mib);
        EXPECT_EQ(map.cluster_size(), header_of(bytes).cluster_size());
        EXPECT_EQ(all_of(map), (Extents{{0, 64 * mib, LayerKind::absent, false}}));
        EXPECT_FALSE(map.next());
    }
    const Bytes empty = created("0");
    const MemorySource source(empty);
    Qcow2LayerMap map(source, read_header(source));
    EXPECT_FALSE(map.next());
}

TEST(LayerMap, EachKindByItself) {
    const TemporaryDirectory directory;
    const std::string path = directory / "image";
    create(path, "1M", "", {"-u", "-b", "null-co://", "-F", "raw"});
    run_well({"qemu-io", "-f", "qcow2", "-c", "write 0 1", "-c", "write -c 64k 64k", "-c", "write 128k 128k",
              "-c", "write -z 128k 64k", "-c", "write -z -u 256k 64k", path});
    EXPECT_EQ(described(extents_of_file(path)), described({{0, 65536, LayerKind::data, true},
                                                           {65536, 65536, LayerKind::data, false},
                                                           {131072, 65536, LayerKind::zero, true},
                                                           {196608, 65536, LayerKind::data, true},
                                                           {262144, 65536, LayerKind::zero, false},
                                                           {327680, 720896, LayerKind::absent, false}}));
}

TEST(LayerMap, SubclustersOfAnAllocatedClusterAreInPlaceEvenIfAbsent) {
    const TemporaryDirectory directory;
    const std::string path = directory / "image";
    create(path, "1M", "extended_l2=on", {"-u", "-b", "null-co://", "-F", "raw"});
    run_well({"qemu-io", "-f", "qcow2", "-c", "write 68k 2k", "-c", "write -z 70k 4k", "-c",
              "write -z 192k 2k", path});
    EXPECT_EQ(described(extents_of_file(path)), described({{0, 65536, LayerKind::absent, false},
                                                           {65536, 4096, LayerKind::absent, true},
                                                           {69632, 2048, LayerKind::data, true},
                                                           {71680, 4096, LayerKind::zero, true},
                                                           {75776, 55296, LayerKind::absent, true},
                                                           {131072, 65536, LayerKind::absent, false},
                                                           {196608, 2048, LayerKind::zero, false},
                                                           {198656, 849920, LayerKind::absent, false}}));
}

TEST(LayerMap, AsQemuSaysOfAllShapes) {
    const TemporaryDirectory directory;
    for (const Shape& shape : shapes) {
        for (const unsigned seed : {1U, 2U}) {
            SCOPED_TRACE(fmt::format("{}, seed {}", shape.options, seed));
            create(directory / "base", std::to_string(shape.size), shape.options);
            compress(directory / "base", shape, seed);
            scribble(directory / "base", shape, seed);
            expect_as_qemu_maps(directory / "base");
            create(directory / "top", "", shape.options, {"-b", "base", "-F", "qcow2"});
            compress(directory / "top", shape, seed);
            scribble(directory / "top", shape, seed + 100);
            expect_as_qemu_maps(directory / "top");
        }
    }
}

/// Any part of a map is that part of the whole.
TEST(LayerMap, OfAnyPart) {
    const TemporaryDirectory directory;
    for (const Shape& shape : shapes) {
        SCOPED_TRACE(shape.options);
        create(directory / "image", std::to_string(shape.size), shape.options);
        compress(directory / "image", shape, 7);
        scribble(directory / "image", shape, 7);
        const Extents whole = extents_of_file(directory / "image");
        const UniqueFd fd(::open((directory / "image").c_str(), O_RDONLY | O_CLOEXEC));
        const FileSource source(fd.get());
        std::mt19937_64 random(7);
        for (int i = 0; i < 20; ++i) {
            Qcow2LayerMap map(source, read_header(source));
            std::uint64_t offset = random() % (shape.size / 8);
            for (auto extent = whole.begin(); offset < shape.size;) {
                const std::uint64_t end = std::min(shape.size, offset + 1 + random() % (shape.size / 8));
                while (extent->offset + extent->length <= offset) ++extent;
                LayerExtent expected = *extent;
                expected.offset = offset;
                expected.length = std::min(extent->offset + extent->length, end) - offset;
                ASSERT_EQ(map.at(offset, end), expected) << described({map.at(offset, end), expected});
                // On where it ended, or after something that is left out.
                offset += random() % 2 == 0 ? expected.length : 1 + random() % (shape.size / 8);
            }
        }
    }
}

TEST(LayerMap, AsQemuSaysOfOverlaysOfAnotherSizeAndShape) {
    const TemporaryDirectory directory;
    create(directory / "base", "10M", "cluster_size=4096");
    scribble(directory / "base", {"", 4096, 10 * mib}, 3);
    create(directory / "larger", "20M", "", {"-b", "base", "-F", "qcow2"});
    scribble(directory / "larger", {"", 65536, 20 * mib}, 4);
    create(directory / "smaller", "5M", "extended_l2=on", {"-b", "larger", "-F", "qcow2"});
    scribble(directory / "smaller", {"", 65536, 5 * mib}, 5);
    for (const char* name : {"base", "larger", "smaller"}) expect_as_qemu_maps(directory / name);
}

TEST(LayerMap, AsQemuSaysOfPreallocatedImages) {
    const TemporaryDirectory directory;
    const std::string path = directory / "image";
    for (const char* options :
         {"preallocation=metadata", "preallocation=falloc", "preallocation=full",
          "preallocation=metadata,extended_l2=on", "preallocation=metadata,cluster_size=512"}) {
        SCOPED_TRACE(options);
        create(path, "3146240", options);
        Extents extents = extents_of_file(path);
        ASSERT_EQ(extents.size(), 1U) << described(extents);
        EXPECT_TRUE(extents[0].in_place);
        run_well({"qemu-io", "-f", "qcow2", "-c", "write 1M 64k", path});
        expect_as_qemu_maps(path);
    }
}

TEST(LayerMap, WhatAnInternalSnapshotSharesIsNotInPlace) {
    const TemporaryDirectory directory;
    const std::string path = directory / "image";
    create(path, "1M");
    run_well({"qemu-io", "-f", "qcow2", "-c", "write 0 256k", path});
    run_well({"qemu-img", "snapshot", "-c", "one", path});
    run_well({"qemu-io", "-f", "qcow2", "-c", "write 64k 64k", "-c", "write 512k 64k", path});
    EXPECT_EQ(described(extents_of_file(path)), described({{0, 65536, LayerKind::data, false},
                                                           {65536, 65536, LayerKind::data, true},
                                                           {131072, 131072, LayerKind::data, false},
                                                           {262144, 262144, LayerKind::absent, false},
                                                           {524288, 65536, LayerKind::data, true},
                                                           {589824, 458752, LayerKind::absent, false}}));
}

/// Tells what is read of a file, and how much at most at a time.
class WatchedSource final : public ImageSource {
  public:
    explicit WatchedSource(int fd) : file_(fd) {}
    [[nodiscard]] std::uint64_t size() const override { return file_.size(); }
    void read(std::span<std::byte> buffer, std::uint64_t offset) const override {
        most_ = std::max<std::uint64_t>(most_, buffer.size());
        all_ += buffer.size();
        file_.read(buffer, offset);
    }
    [[nodiscard]] std::uint64_t most() const { return most_; }
    [[nodiscard]] std::uint64_t all() const { return all_; }

  private:
    FileSource file_;
    mutable std::uint64_t most_ = 0;
    mutable std::uint64_t all_ = 0;
};

TEST(LayerMap, OfALargeDiskLittleIsRead) {
    const TemporaryDirectory directory;
    const std::string path = directory / "image";
    create(path, "100T");  // 1.6 MB of L1 table
    run_well({"qemu-io", "-f", "qcow2", "-c", "write 0 1", "-c", "write 50T 64k", "-c",
              fmt::format("write {} 64k", 100 * tib - 65536), path});
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    const WatchedSource source(fd.get());
    Qcow2LayerMap map(source, header_of_file(path));
    EXPECT_EQ(described(all_of(map)),
              described({{0, 65536, LayerKind::data, true},
                         {65536, 50 * tib - 65536, LayerKind::absent, false},
                         {50 * tib, 65536, LayerKind::data, true},
                         {50 * tib + 65536, 50 * tib - 131072, LayerKind::absent, false},
                         {100 * tib - 65536, 65536, LayerKind::data, true}}));
    EXPECT_EQ(source.most(), 65536U);
    EXPECT_EQ(source.all(), 100 * tib / (512 * mib) * 8 + std::uint64_t{3} * 65536);
}

TEST(LayerMap, WhileQemuWritesToIt) {
    const TemporaryDirectory directory;
    const Shape shape{"", 4096, 64 * mib};
    create(directory / "image", std::to_string(shape.size), "cluster_size=4096");
    std::atomic<bool> done = false;
    std::jthread writer([&] {
        for (unsigned seed = 1; seed <= 5; ++seed)
            scribble(directory / "image", {"", 65536, shape.size}, seed);
        done = true;
    });
    while (!done) {
        const auto error = error_of([&] { expect_whole(extents_of_file(directory / "image"), shape.size); });
        if (error) {
            EXPECT_EQ(error->code(), ErrorCode::corrupt_image) << error->what();
        }
    }
    writer.join();
    expect_as_qemu_maps(directory / "image");
}

TEST(LayerMap, ExternalDataIsRefused) {
    const TemporaryDirectory directory;
    create(directory / "image", "1M", "data_file=" + directory / "data");
    const auto error = error_of([&] { (void)extents_of_file(directory / "image"); });
    ASSERT_TRUE(error);
    EXPECT_EQ(error->code(), ErrorCode::unsupported);
}

}  // namespace
}  // namespace volchain::qcow2::layer_map_test
