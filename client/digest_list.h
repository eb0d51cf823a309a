// SPDX-License-Identifier: MIT
//
// DigestList: what one file of a backup holds, beside it in a file of its own: which blocks, and the digest of each as it was
// read from what was backed up. By it every block of the file can be proved; and the lists of a file and of all that it
// stands on make the checksum of the whole disk, without reading what has not changed.
//
// The file is, in little-endian numbers of 8 bytes: the words "VCDIGEST" and 1 (version), the size of a block, the disk's size,
// how many runs, how many digests; then the runs: first block, and the number of blocks with the topmost bit set where they
// are zeroes; then the digests of the blocks of the others, 32 bytes each. Blocks in no run are as in the file below, or
// zeroes.
//
// What is read is foreign: it is held against limits, and against the length of the file, before any of it is believed.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "client/block_hash.h"
#include "client/block_runs.h"

namespace volchain::client {

class DigestList {
  public:
    /// Reads the runs. Throws CorruptImage, naming `name`.
    DigestList(UniqueFd file, std::string name);

    [[nodiscard]] const std::string& name() const noexcept { return name_; }
    [[nodiscard]] std::uint64_t disk_size() const noexcept { return disk_size_; }
    [[nodiscard]] const BlockRuns& runs() const noexcept { return runs_; }
    /// Of data blocks, from `slot` on. By any thread.
    void read(std::uint64_t slot, std::span<Digest> into) const;

  private:
    void read_runs(std::uint64_t count, std::uint64_t digests);
    [[nodiscard]] std::size_t read_some(std::span<std::byte> into, std::uint64_t offset) const;
    [[noreturn]] void fail(const std::string& why) const;

    UniqueFd file_;
    std::string name_;
    std::uint64_t disk_size_ = 0;
    std::uint64_t digests_at_ = 0;
    BlockRuns runs_;
};

/// Makes one. The digests come in any order, by any thread.
class DigestListWriter {
  public:
    /// `name`: for messages.
    DigestListWriter(UniqueFd file, std::string name, std::uint64_t disk_size, const BlockRuns& runs);

    void put(std::uint64_t slot, std::span<const Digest> digests);
    /// When all are there: makes the file durable.
    void finish();

  private:
    void write(std::span<const std::byte> bytes, std::uint64_t offset);

    UniqueFd file_;
    std::string name_;
    std::uint64_t digests_at_ = 0;
};

/// What a disk held at a moment: the lists of a file and of those that it stands on.
class MomentDigests {
  public:
    /// The topmost first. Throws CorruptImage where they are of disks of several sizes.
    explicit MomentDigests(std::vector<std::shared_ptr<const DigestList>> lists);

    [[nodiscard]] std::uint64_t disk_size() const noexcept { return disk_size_; }
    /// Each says in which list its digests are. Blocks in none are zeroes.
    [[nodiscard]] const BlockRuns& runs() const noexcept { return runs_; }
    /// Of data blocks of one run. By any thread.
    void read(std::size_t list, std::uint64_t slot, std::span<Digest> into) const;
    /// As Volume.Checksum has it. It reads all digests.
    [[nodiscard]] std::string checksum() const;

  private:
    std::vector<std::shared_ptr<const DigestList>> lists_;
    std::uint64_t disk_size_ = 0;
    BlockRuns runs_;
};

}  // namespace volchain::client
