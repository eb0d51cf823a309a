// SPDX-License-Identifier: MIT
#include "qcow2/raw_layer_map.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "base/file.h"
#include "base/unique_fd.h"
#include "support.h"

namespace volchain::qcow2::raw_layer_map_test {
namespace {

constexpr std::uint64_t mib = 1U << 20;

using Extents = std::vector<LayerExtent>;

UniqueFd file_of(const std::string& path, std::uint64_t size) {
    UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    EXPECT_EQ(::ftruncate(fd.get(), static_cast<off_t>(size)), 0);
    return fd;
}

void fill(const UniqueFd& fd, std::uint64_t offset, std::size_t length) {
    write_at(fd.get(), Bytes(length, std::byte{1}), offset);
}

Extents extents_of(const UniqueFd& fd) {
    RawLayerMap map(fd.get());
    return all_of(map);
}

LayerExtent data(std::uint64_t offset, std::uint64_t length) {
    return {offset, length, LayerKind::data, true};
}
LayerExtent zero(std::uint64_t offset, std::uint64_t length) {
    return {offset, length, LayerKind::zero, false};
}

TEST(RawLayerMap, HolesAreZeroes) {
    const TemporaryDirectory directory;
    const UniqueFd fd = file_of(directory / "disk", 100 * mib);
    EXPECT_EQ(extents_of(fd), (Extents{zero(0, 100 * mib)}));
    fill(fd, mib, mib);
    fill(fd, 50 * mib, 4096);
    EXPECT_EQ(extents_of(fd), (Extents{zero(0, mib), data(mib, mib), zero(2 * mib, 48 * mib),
                                       data(50 * mib, 4096), zero(50 * mib + 4096, 50 * mib - 4096)}));
    fill(fd, 0, mib);
    fill(fd, 99 * mib, mib);
    ASSERT_EQ(::fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 50 * mib, mib), 0);
    EXPECT_EQ(extents_of(fd), (Extents{data(0, 2 * mib), zero(2 * mib, 97 * mib), data(99 * mib, mib)}));
}

TEST(RawLayerMap, EmptyAndOddSizes) {
    const TemporaryDirectory directory;
    UniqueFd fd = file_of(directory / "disk", 0);
    EXPECT_TRUE(extents_of(fd).empty());
    fill(fd, 0, 1000);
    EXPECT_EQ(extents_of(fd), (Extents{data(0, 1024)}));
    fd = file_of(directory / "disk", mib + 1);
    EXPECT_EQ(extents_of(fd), (Extents{zero(0, mib + 512)}));
}

TEST(RawLayerMap, AsQemuSays) {
    const TemporaryDirectory directory;
    const UniqueFd fd = file_of(directory / "disk", 10 * mib + 1536);
    for (const std::uint64_t offset : {0U, 3U, 5U, 9U}) fill(fd, offset * mib, (1 + offset) * 65536);
    fill(fd, 10 * mib, 1536);
    Extents theirs;
    for (const Json& entry :
         Json::parse(run_well({"qemu-img", "map", "--output=json", "-f", "raw", directory / "disk"}))) {
        const auto offset = entry.at("start").get<std::uint64_t>();
        const auto length = entry.at("length").get<std::uint64_t>();
        theirs.push_back(entry.at("data").get<bool>() ? data(offset, length) : zero(offset, length));
    }
    EXPECT_EQ(extents_of(fd), theirs);
}

TEST(RawLayerMap, OfAFileThatBecomesShorterTheRestIsZero) {
    const TemporaryDirectory directory;
    const UniqueFd fd = file_of(directory / "disk", 4 * mib);
    fill(fd, 0, mib);
    fill(fd, 2 * mib, 2 * mib);
    RawLayerMap map(fd.get());
    EXPECT_EQ(map.next(), data(0, mib));
    ASSERT_EQ(::ftruncate(fd.get(), mib), 0);
    while (const auto extent = map.next()) EXPECT_EQ(extent->offset + extent->length, 4 * mib);
}

TEST(RawLayerMap, WhatIsNoFileIsRefused) {
    const UniqueFd fd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    const auto error = error_of([&] { const RawLayerMap map(fd.get()); });
    ASSERT_TRUE(error);
    EXPECT_EQ(error->code(), ErrorCode::unsafe_image);
}

}  // namespace
}  // namespace volchain::qcow2::raw_layer_map_test
