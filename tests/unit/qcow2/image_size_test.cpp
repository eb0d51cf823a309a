// SPDX-License-Identifier: MIT
//
// Sizes held to what "qemu-img measure" says.
#include "qcow2/image_size.h"

#include <gtest/gtest.h>

#include "support.h"

namespace volchain::qcow2::image_size_test {
namespace {

constexpr std::uint64_t kib = 1U << 10;
constexpr std::uint64_t mib = 1U << 20;
constexpr std::uint64_t gib = 1U << 30;

Json measured(std::uint64_t size, const ImageShape& shape) {
    const std::string options =
        fmt::format("cluster_size={},extended_l2={}", shape.cluster_size, shape.extended_l2 ? "on" : "off");
    return Json::parse(run_well({"qemu-img", "measure", "--output=json", "-O", "qcow2", "-o", options,
                                 "--size", std::to_string(size)}));
}

TEST(ImageSize, FullAsQemuMeasures) {
    for (const std::uint64_t size :
         {std::uint64_t{0}, std::uint64_t{512}, mib, 100 * mib + 512, 7 * gib, 1024 * gib})
        for (const std::uint64_t cluster : {512 * std::uint64_t{1}, 4 * kib, 64 * kib, 2 * mib})
            for (const bool extended : {false, true}) {
                if (extended && cluster < 16 * kib) continue;
                if (size / cluster > 2 * gib / 8) continue;  // more than an L1 table has
                SCOPED_TRACE(fmt::format("{} bytes, clusters of {}, {}", size, cluster, extended));
                const ImageShape shape{cluster, extended};
                const Json theirs = measured(size, shape);
                const std::uint64_t full = full_image_bytes(size, shape);
                EXPECT_EQ(full, theirs.at("fully-allocated").get<std::uint64_t>());
                const std::uint64_t whole = (size + cluster - 1) / cluster * cluster;
                EXPECT_EQ(full - whole, theirs.at("required").get<std::uint64_t>());
            }
}

TEST(ImageSize, BitmapsAsQemuMeasures) {
    const TemporaryDirectory directory;
    const std::string path = directory / "image";
    create(path, "3G");
    run_well({"qemu-img", "bitmap", "--add", path, "one"});
    run_well({"qemu-img", "bitmap", "--add", "--disable", "-g", "512", path, std::string(300, 'n')});
    for (const std::uint64_t cluster : {4 * kib, 64 * kib, mib}) {
        SCOPED_TRACE(cluster);
        const Json theirs =
            Json::parse(run_well({"qemu-img", "measure", "--output=json", "-f", "qcow2", "-O", "qcow2", "-o",
                                  fmt::format("cluster_size={}", cluster), path}));
        EXPECT_EQ(bitmap_bytes({{3, 64 * kib}, {300, 512}}, 3 * gib, {cluster, false}),
                  theirs.at("bitmaps").get<std::uint64_t>());
    }
    EXPECT_EQ(bitmap_bytes({}, 3 * gib, {}), 0U);
}

TEST(ImageSize, EachClusterIsCountedOnce) {
    ClusterCounter counter(64 * kib);
    EXPECT_EQ(counter.bytes(), 0U);
    counter.add({512, 512, LayerKind::data});
    counter.add({2048, 512, LayerKind::data});
    EXPECT_EQ(counter.bytes(), 64 * kib);
    counter.add({63 * kib, 2 * kib, LayerKind::data});
    EXPECT_EQ(counter.bytes(), 128 * kib);
    counter.add({128 * kib, 128 * kib, LayerKind::data});
    counter.add({gib + 1, 1, LayerKind::data});
    EXPECT_EQ(counter.bytes(), 5 * 64 * kib);
}

}  // namespace
}  // namespace volchain::qcow2::image_size_test
