// SPDX-License-Identifier: MIT
#include "client/digest_list.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>

#include "base/error.h"
#include "base/file.h"

namespace volchain::client::digest_list_test {
namespace {

UniqueFd memory() {
    return UniqueFd(::memfd_create("list", MFD_CLOEXEC));
}

UniqueFd again(const UniqueFd& fd) {
    return UniqueFd(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
}

Digest digest_of(std::uint8_t value, std::size_t bytes = block_bytes) {
    const std::vector<std::byte> block(bytes, static_cast<std::byte>(value));
    return BlockHash().of(block);
}

/// A list in which block n has the digest of a block of values[n].
UniqueFd list_of(std::uint64_t size, const BlockRuns& runs, const std::vector<Digest>& digests) {
    UniqueFd file = memory();
    DigestListWriter writer(again(file), "the list", size, runs);
    for (std::size_t slot = digests.size(); slot > 0; --slot)
        writer.put(slot - 1, std::span(digests).subspan(slot - 1, 1));
    writer.finish();
    return file;
}

BlockSet blocks(std::uint64_t first, std::uint64_t end) {
    BlockSet set;
    set.add(first, end);
    return set;
}

/// By the definition in org.volchain1(5).
std::string checksum_of(const std::vector<Digest>& all, std::uint64_t size) {
    Sha256 hash;
    for (const Digest& digest : all) hash.add(digest);
    std::array<std::byte, 8> bytes{};
    for (std::size_t i = 0; i < 8; ++i) bytes[i] = static_cast<std::byte>(size >> (8 * i));
    hash.add(bytes);
    return hexadecimal(hash.finish());
}

TEST(Sha256, KnownAnswer) {
    Sha256 hash;
    const std::string text = "abc";
    hash.add(std::as_bytes(std::span(text)));
    EXPECT_EQ(hexadecimal(hash.finish()), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    EXPECT_EQ(hexadecimal(hash.finish()), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

TEST(DigestList, WrittenAndRead) {
    const std::uint64_t size = 10 * block_bytes;
    const BlockRuns runs = plan_runs(BlockSet(6), blocks(2, 4));
    const UniqueFd file = list_of(size, runs, {digest_of(1), digest_of(2)});
    const DigestList list(again(file), "x");
    EXPECT_EQ(list.disk_size(), size);
    EXPECT_EQ(list.runs(), runs);
    std::vector<Digest> read(2);
    list.read(0, read);
    EXPECT_EQ(read, (std::vector<Digest>{digest_of(1), digest_of(2)}));
    EXPECT_THROW(list.read(1, read), Error);
}

TEST(MomentDigests, TheTopmostCountsAndGapsAreZeroes) {
    const std::uint64_t size = 5 * block_bytes + 512;
    const UniqueFd base = list_of(size, plan_runs(blocks(0, 4), blocks(0, 4)),
                                  {digest_of(1), digest_of(2), digest_of(3), digest_of(4)});
    // Block 1 is new, block 2 zero.
    const UniqueFd top = list_of(size, plan_runs(blocks(1, 3), blocks(1, 2)), {digest_of(9)});
    std::vector<std::shared_ptr<const DigestList>> lists{
        std::make_shared<const DigestList>(again(top), "top"),
        std::make_shared<const DigestList>(again(base), "base")};
    const MomentDigests moment(std::move(lists));
    const BlockRuns wanted{{0, 1, BlockKind::data, 0, 1},
                           {1, 1, BlockKind::data, 0, 0},
                           {2, 1, BlockKind::zero, 0, 0},
                           {3, 1, BlockKind::data, 3, 1}};
    EXPECT_EQ(moment.runs(), wanted);
    EXPECT_EQ(moment.checksum(), checksum_of({digest_of(1), digest_of(9), digest_of(0), digest_of(4),
                                              digest_of(0), digest_of(0, 512)},
                                             size));
}

TEST(MomentDigests, AnEmptyDisk) {
    const std::uint64_t size = 3000 * block_bytes;
    const UniqueFd file = list_of(size, {}, {});
    std::vector<std::shared_ptr<const DigestList>> lists{
        std::make_shared<const DigestList>(again(file), "x")};
    EXPECT_EQ(MomentDigests(std::move(lists)).checksum(),
              checksum_of(std::vector<Digest>(3000, digest_of(0)), size));
}

TEST(MomentDigests, DisksOfSeveralSizes) {
    const UniqueFd a = list_of(block_bytes, {}, {});
    const UniqueFd b = list_of(block_bytes * 2, {}, {});
    std::vector<std::shared_ptr<const DigestList>> lists{std::make_shared<const DigestList>(again(a), "a"),
                                                         std::make_shared<const DigestList>(again(b), "b")};
    EXPECT_THROW(MomentDigests(std::move(lists)), Error);
}

/// Each number of a good list that can be changed into one that cannot be.
TEST(DigestList, RefusesWhatCannotBe) {
    const std::uint64_t size = 10 * block_bytes;
    const UniqueFd file = list_of(size, plan_runs(BlockSet(4), blocks(1, 3)), {digest_of(1), digest_of(2)});
    std::vector<std::byte> good(4096);
    good.resize(read_at(file.get(), good, 0));
    const auto refused = [&good](std::size_t at, std::uint64_t number) {
        std::vector<std::byte> bad = good;
        std::memcpy(bad.data() + at, &number, 8);
        const UniqueFd changed = memory();
        write_at(changed.get(), bad, 0);
        try {
            const DigestList list(again(changed), "changed");
            return false;
        } catch (const Error& error) {
            return error.code() == ErrorCode::corrupt_image;
        }
    };
    EXPECT_TRUE(refused(0, 1));                          // no magic
    EXPECT_TRUE(refused(8, 2));                          // version
    EXPECT_TRUE(refused(16, 4096));                      // size of a block
    EXPECT_TRUE(refused(24, UINT64_MAX));                // size of the disk
    EXPECT_TRUE(refused(24, block_bytes));               // too small for the runs
    EXPECT_TRUE(refused(32, UINT64_MAX / 16));           // number of runs
    EXPECT_TRUE(refused(32, 2));                         // one less
    EXPECT_TRUE(refused(40, UINT64_MAX));                // number of digests
    EXPECT_TRUE(refused(40, 1));                         // one less
    EXPECT_TRUE(refused(48, 10));                        // a run past the end
    EXPECT_TRUE(refused(56, 0));                         // an empty one
    EXPECT_TRUE(refused(56, 5));                         // that overlaps the next
    EXPECT_TRUE(refused(72, (std::uint64_t{1} << 62)));  // an endless one
    const UniqueFd empty = memory();
    EXPECT_THROW(DigestList(again(empty), "empty"), Error);
}

}  // namespace
}  // namespace volchain::client::digest_list_test
