// SPDX-License-Identifier: MIT
//
// Checksums that were computed with Python, by the definition in org.volchain1(5).
#include "storage/images/block_digest.h"

#include <gtest/gtest.h>

#include <random>

namespace volchain::storage::block_digest_test {
namespace {

constexpr std::size_t block = BlockDigest::block_bytes;

using Bytes = std::vector<std::byte>;

std::string checksum_of(const Bytes& content, ChecksumAlgorithm algorithm = ChecksumAlgorithm::sha256) {
    BlockDigest digest(algorithm);
    digest.add(content);
    return digest.finish();
}

/// Block after block of another byte.
Bytes pattern(std::size_t size) {
    Bytes content(size);
    for (std::size_t i = 0; i < size; ++i) content[i] = static_cast<std::byte>(i / block + 1);
    return content;
}

TEST(BlockDigest, AsDefined) {
    EXPECT_EQ(checksum_of({}), "af5570f5a1810b7af78caf4bc70a660f0df51e42baf91d4de5b2328de0e83dfc");
    EXPECT_EQ(checksum_of(pattern(3 * block)),
              "7c51d2145958811241e90f3b5e5e01a7121abd65afc1a909d8d2ba3dc6322071");
    EXPECT_EQ(checksum_of(pattern(2 * block + 512)),
              "df3620e2525497423b579806e12ce39736a787c98c21002bf92595c1cfb5261c");
    EXPECT_EQ(checksum_of(Bytes(2 * block + 512)),
              "1fbd1dffdcf0f4a7457dac9b716d9cd5c3ac82fb2b16c820d804c53fed27fd17");
    EXPECT_EQ(checksum_of(pattern(2 * block + 512), ChecksumAlgorithm::blake2b512),
              "596f56272231d53ffd95607c0e5af9ded269576fb8ec22ff0929257d397d9375"
              "3d417a413a59f0327e6b1656281f596777e292df20b4e22d8351ba1efeb6b76c");
}

TEST(BlockDigest, ZeroesAreZeroesHoweverTheyAreAdded) {
    Bytes content = pattern(8 * block);
    std::fill(content.begin() + block, content.begin() + 4 * block, std::byte{0});
    content.resize(8 * block + 1024);
    BlockDigest digest(ChecksumAlgorithm::sha256);
    const std::span<const std::byte> all(content);
    digest.add(all.first(block));
    digest.add_zeroes(2 * block);
    digest.add(all.subspan(3 * block, 2 * block));
    digest.add_zeroes(0);
    digest.add(all.subspan(5 * block, 3 * block));
    digest.add_zeroes(1024);
    EXPECT_EQ(digest.finish(), checksum_of(content));
}

TEST(BlockDigest, ManyZeroes) {
    BlockDigest one(ChecksumAlgorithm::sha256);
    one.add_zeroes(5000 * block);
    BlockDigest many(ChecksumAlgorithm::sha256);
    for (int i = 0; i < 5000; ++i) many.add_zeroes(block);
    EXPECT_EQ(one.finish(), many.finish());
}

TEST(BlockDigest, AnyDifferenceShows) {
    const Bytes content = pattern(4 * block + 512);
    const std::string before = checksum_of(content);
    std::mt19937 random(1);
    for (int i = 0; i < 50; ++i) {
        Bytes other = content;
        other[random() % other.size()] ^= std::byte{1} << (random() % 8);
        EXPECT_NE(checksum_of(other), before);
    }
    Bytes longer = content;
    longer.resize(content.size() + 512);
    EXPECT_NE(checksum_of(longer), before);
    EXPECT_NE(checksum_of(Bytes(block)), checksum_of(Bytes(2 * block)));
    EXPECT_NE(checksum_of(Bytes(512)), checksum_of(Bytes(1024)));
}

}  // namespace
}  // namespace volchain::storage::block_digest_test
