// SPDX-License-Identifier: MIT
//
// copy_blocks(): reads the blocks of a plan from an NBD server, says what the digest of each is, and writes them to another
// one where there is one. Several threads, each with a connection of its own to either side and many requests under way, as
// nbdcopy(1) does it. It blocks; it ends at the first failure, and when the user wants it to.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "client/block_hash.h"
#include "client/block_runs.h"
#include "client/nbd_connection.h"
#include "client/stop_sign.h"

namespace volchain::client {

/// A part of a run, as it is read in one request.
struct Piece {
    std::uint64_t first = 0;
    std::uint64_t count = 0;
    BlockKind kind = BlockKind::data;
    std::uint64_t slot = 0;
    std::size_t list = 0;
};

/// What becomes of digests; by several threads at once, in no order.
class DigestTaker {
  public:
    DigestTaker() = default;
    DigestTaker(const DigestTaker&) = delete;
    DigestTaker& operator=(const DigestTaker&) = delete;
    virtual ~DigestTaker() = default;

    /// Of each block of a piece of data.
    virtual void take(const Piece& piece, std::span<const Digest> digests) = 0;
};

/// How far it is, for who shows that meanwhile.
struct CopyProgress {
    std::atomic<std::uint64_t> done = 0;
    std::atomic<std::uint64_t> total = 0;
};

using Connections = std::vector<std::unique_ptr<NbdConnection>>;

struct CopyPlan {
    const BlockRuns* runs = nullptr;
    std::uint64_t size = 0;  ///< of the disk
    Connections* sources = nullptr;
    /// As many as sources, or none: then it is only read.
    Connections* targets = nullptr;
    /// Whether zeroes have to be written; else the target has them already.
    bool write_zeroes = false;
};

/// So many connections are of use, where the server has nothing against several.
[[nodiscard]] std::size_t useful_connections();

/// Bytes of data are counted, and bytes of zeroes where those are written.
[[nodiscard]] std::uint64_t bytes_to_copy(const CopyPlan& plan);

/// Throws what the first failure was; Interrupted.
void copy_blocks(const CopyPlan& plan, DigestTaker& taker, CopyProgress& progress, const StopSign& stop);

}  // namespace volchain::client
