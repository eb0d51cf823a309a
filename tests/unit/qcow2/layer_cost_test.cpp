// SPDX-License-Identifier: MIT
//
// Costs of made-up layers, and of real ones, held to what a commit by QEMU makes of the lower one.
#include "qcow2/layer_cost.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <array>
#include <random>
#include <set>

#include "base/unique_fd.h"
#include "made_up_map.h"
#include "qcow2/raw_layer_map.h"
#include "support.h"

namespace volchain::qcow2::layer_cost_test {
namespace {

using namespace made_up;

constexpr std::uint64_t kib = 1U << 10;
constexpr std::uint64_t mib = 1U << 20;

MissingBytes missing(const std::vector<Part>& upper, std::uint64_t cluster_size,
                     const std::vector<Part>& lower) {
    MadeUpMap above(kib, upper);
    MadeUpMap below(cluster_size, lower);
    return bytes_missing(above, below);
}

void expect_missing(const MissingBytes& found, std::uint64_t data_bytes, std::uint64_t zero_bytes) {
    EXPECT_EQ(found.data, data_bytes);
    EXPECT_EQ(found.zero, zero_bytes);
}

TEST(LayerCost, BytesByKind) {
    MadeUpMap map(kib, {data(3 * kib), compressed(kib), zero(5 * kib), absent(kib), data(512), absent(mib)});
    const LayerBytes bytes = bytes_of(map);
    EXPECT_EQ(bytes.data, 4 * kib + 512);
    EXPECT_EQ(bytes.zero, 5 * kib);
    EXPECT_EQ(bytes.absent, mib + kib);
    EXPECT_EQ(bytes_of_data(map), 0U);  // nothing is left of it
    MadeUpMap again(kib, {absent(kib), data(kib)});
    EXPECT_EQ(bytes_of_data(again), kib);
}

TEST(LayerCost, MissingIsWhatHasNoPlace) {
    const std::vector<Part> upper{data(4 * kib), zero(4 * kib), absent(4 * kib)};
    expect_missing(missing(upper, kib, {absent(12 * kib)}), 4 * kib, 4 * kib);
    expect_missing(missing(upper, kib, {data(12 * kib)}), 0, 0);
    expect_missing(missing(upper, kib, {allocated_zero(12 * kib)}), 0, 0);
    expect_missing(missing(upper, kib, {zero(12 * kib)}), 4 * kib, 4 * kib);
    expect_missing(missing(upper, kib, {compressed(12 * kib)}), 4 * kib, 4 * kib);
    expect_missing(missing(upper, kib, {data(kib), absent(4 * kib), data(kib), absent(6 * kib)}), 3 * kib,
                   3 * kib);
    expect_missing(missing({absent(12 * kib)}, kib, {absent(12 * kib)}), 0, 0);
    expect_missing(missing({}, kib, {absent(12 * kib)}), 0, 0);
}

TEST(LayerCost, CountsInClustersOfTheLowerLayer) {
    // One byte in each of two clusters, more than one in a third.
    expect_missing(missing({absent(1), data(1), absent(63 * kib), data(kib), absent(65 * kib), data(1),
                            zero(1), data(1), absent(62 * kib)},
                           64 * kib, {absent(256 * kib)}),
                   3 * 64 * kib, 0);
    // Zeroes count where no data shares the cluster.
    expect_missing(missing({zero(64 * kib), data(1), zero(128 * kib)}, 64 * kib, {absent(256 * kib)}),
                   64 * kib, 3 * 64 * kib);
    expect_missing(missing({zero(1), data(1), zero(1)}, 64 * kib, {absent(64 * kib)}), 64 * kib, 0);
    expect_missing(missing({zero(65 * kib), data(1)}, 64 * kib, {absent(128 * kib)}), 64 * kib, 64 * kib);
    // A cluster of which a part has no place is counted, and once.
    expect_missing(missing({data(256 * kib)}, 64 * kib, {data(60 * kib), zero(8 * kib), data(188 * kib)}),
                   128 * kib, 0);
    expect_missing(missing({data(kib), absent(kib), data(kib)}, 64 * kib, {data(63 * kib), zero(kib)}),
                   64 * kib, 0);
}

TEST(LayerCost, LayersOfDifferentSize) {
    expect_missing(missing({data(256 * kib)}, 64 * kib, {data(64 * kib)}), 192 * kib, 0);
    expect_missing(missing({data(256 * kib)}, 64 * kib, {}), 256 * kib, 0);
    expect_missing(missing({data(kib)}, 64 * kib, {absent(mib)}), 64 * kib, 0);
    // The last cluster of the lower one ends behind its disk.
    expect_missing(missing({data(256 * kib)}, 64 * kib, {data(65 * kib)}), 128 * kib, 0);
    expect_missing(missing({data(256 * kib)}, 64 * kib, {data(64 * kib), absent(kib)}), 192 * kib, 0);
    expect_missing(missing({data(65 * kib)}, 64 * kib, {absent(65 * kib)}), 128 * kib, 0);
}

/// Bytes of the image's clusters that are in place.
std::uint64_t place_of(const std::string& path) {
    const std::uint64_t size = header_of_file(path).cluster_size();
    std::set<std::uint64_t> clusters;
    for (const LayerExtent& extent : extents_of_file(path))
        for (std::uint64_t offset = extent.offset; extent.in_place && offset < extent.offset + extent.length;
             offset = (offset / size + 1) * size)
            clusters.insert(offset / size);
    return clusters.size() * size;
}

MissingBytes missing_in_files(const std::string& upper, const std::string& lower) {
    const UniqueFd above(::open(upper.c_str(), O_RDONLY | O_CLOEXEC));
    const UniqueFd below(::open(lower.c_str(), O_RDONLY | O_CLOEXEC));
    const FileSource above_source(above.get());
    const FileSource below_source(below.get());
    Qcow2LayerMap above_map(above_source, read_header(above_source));
    Qcow2LayerMap below_map(below_source, read_header(below_source));
    return bytes_missing(above_map, below_map);
}

void scribble(const std::string& path, std::uint64_t size, std::uint64_t unit, unsigned seed) {
    std::mt19937_64 random(seed);
    Words words{"qemu-io", "-t", "unsafe", "-f", "qcow2"};
    for (int i = 0; i < 20; ++i) {
        const char* verb = std::array{"write", "write", "write -z -u", "write -z"}.at(random() % 4);
        const std::uint64_t offset = random() % (size / unit) * unit;
        const std::uint64_t length = std::min(size - offset, (1 + random() % 6) * unit);
        words.insert(words.end(), {"-c", fmt::format("{} {} {}", verb, offset, length)});
    }
    words.push_back(path);
    run_well(words);
}

TEST(LayerCost, AsACommitTakesIt) {
    struct Pair {
        const char* lower;
        const char* upper;
        bool exact;  // zeroes of the upper layer are whole clusters of the lower one
    };
    constexpr auto pairs = std::to_array<Pair>({
        {"", "", true},
        {"cluster_size=4096", "", true},
        {"extended_l2=on", "", true},
        {"cluster_size=2M", "cluster_size=2M", true},
        {"", "cluster_size=4096", false},
        {"cluster_size=2M", "", false},
        {"", "extended_l2=on", false},
        {"extended_l2=on,cluster_size=128k", "extended_l2=on", false},
    });
    const TemporaryDirectory directory;
    const std::uint64_t size = 20 * mib + 512;
    for (const Pair& pair : pairs) {
        SCOPED_TRACE(fmt::format("'{}' into '{}'", pair.upper, pair.lower));
        create(directory / "lower", std::to_string(size), pair.lower);
        scribble(directory / "lower", size, 65536, 1);
        create(directory / "upper", "", pair.upper, {"-b", "lower", "-F", "qcow2"});
        scribble(directory / "upper", size, 4096, 2);
        const MissingBytes missing = missing_in_files(directory / "upper", directory / "lower");
        const std::uint64_t before = place_of(directory / "lower");
        run_well({"qemu-img", "commit", "-q", "-d", directory / "upper"});
        const std::uint64_t taken = place_of(directory / "lower") - before;
        EXPECT_GT(missing.data, 0U);
        EXPECT_GE(taken, missing.data);
        EXPECT_LE(taken, missing.data + (pair.exact ? 0 : missing.zero));
    }
}

TEST(LayerCost, RawLayers) {
    const TemporaryDirectory directory;
    const UniqueFd fd(::open((directory / "raw").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    ASSERT_EQ(::ftruncate(fd.get(), mib), 0);
    ASSERT_EQ(::pwrite(fd.get(), "x", 1, 128 * kib), 1);
    MadeUpMap upper(64 * kib, {data(64 * kib), zero(64 * kib), data(kib), absent(kib), data(mib)});
    RawLayerMap lower(fd.get());
    // Of the piece at 128 KiB no more than a block is there.
    expect_missing(bytes_missing(upper, lower), 64 * kib + mib + 64 * kib, 64 * kib);
    RawLayerMap above(fd.get());
    MadeUpMap below(64 * kib, {absent(mib)});
    expect_missing(bytes_missing(above, below), 64 * kib, mib - 64 * kib);
}

}  // namespace
}  // namespace volchain::qcow2::layer_cost_test
