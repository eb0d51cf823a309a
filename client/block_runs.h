// SPDX-License-Identifier: MIT
//
// A disk, cut into blocks of 64 KiB as checksums see it (org.volchain1(5), CHECKSUMS), of which the last may be shorter;
// sets of such blocks; and runs of blocks that are alike, of which the plan of a copy is made. Values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace volchain::client {

/// Also the cluster of the images that backups are written to: a block is in an image, or it is not.
inline constexpr std::uint64_t block_bytes = 65536;

[[nodiscard]] constexpr std::uint64_t blocks_of(std::uint64_t bytes) {
    return bytes / block_bytes + (bytes % block_bytes != 0 ? 1 : 0);
}
/// Of `count` blocks from `first` on, of a disk of `size` bytes.
[[nodiscard]] constexpr std::uint64_t bytes_of(std::uint64_t first, std::uint64_t count, std::uint64_t size) {
    const std::uint64_t begin = first * block_bytes;
    const std::uint64_t rest = size - begin;
    return count > rest / block_bytes ? rest : count * block_bytes;
}

/// Ranges of blocks, in ascending order, none touching the next.
class BlockSet {
  public:
    struct Range {
        std::uint64_t first = 0;
        std::uint64_t end = 0;
        friend bool operator==(const Range&, const Range&) = default;
    };

    BlockSet() = default;
    /// All blocks before `end`.
    explicit BlockSet(std::uint64_t end) { add(0, end); }

    /// Behind or overlapping the last range: in ascending order of `first`.
    void add(std::uint64_t first, std::uint64_t end);
    /// The blocks that bytes lie in.
    void add_bytes(std::uint64_t offset, std::uint64_t length);

    [[nodiscard]] const std::vector<Range>& ranges() const& noexcept { return ranges_; }
    /// They would be gone before they are looked at.
    const std::vector<Range>& ranges() const&& = delete;
    [[nodiscard]] bool empty() const noexcept { return ranges_.empty(); }
    [[nodiscard]] std::uint64_t count() const;

    [[nodiscard]] BlockSet both(const BlockSet& other) const;
    [[nodiscard]] BlockSet without(const BlockSet& other) const;
    friend bool operator==(const BlockSet&, const BlockSet&) = default;

  private:
    std::vector<Range> ranges_;
};

enum class BlockKind {
    data,  ///< has a digest
    zero,  ///< reads as zeroes
};

/// Blocks that are alike. In a plan they are in ascending order and do not overlap.
struct BlockRun {
    std::uint64_t first = 0;
    std::uint64_t count = 0;
    BlockKind kind = BlockKind::data;
    std::uint64_t slot = 0;  ///< of data: which digest of its list is the first block's
    std::size_t list = 0;    ///< which list that is, where there are several
    friend bool operator==(const BlockRun&, const BlockRun&) = default;
};
using BlockRuns = std::vector<BlockRun>;

/// Those in `blocks` of which `data` has some are data, the others zeroes; slots in one list.
[[nodiscard]] BlockRuns plan_runs(const BlockSet& blocks, const BlockSet& data);
[[nodiscard]] BlockSet blocks_in(const BlockRuns& runs);
[[nodiscard]] BlockSet blocks_in(const BlockRuns& runs, BlockKind kind);
[[nodiscard]] std::uint64_t count_blocks(const BlockRuns& runs, BlockKind kind);

}  // namespace volchain::client
