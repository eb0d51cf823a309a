// SPDX-License-Identifier: MIT
//
// The digests that checksums of disks are made of ("sha256/64KiB", org.volchain1(5), CHECKSUMS): of one block, and of the
// digests of all blocks of a disk in their order. The same that Volume.Checksum answers, made here from what this program
// has read itself.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

struct evp_md_ctx_st;

namespace volchain::client {

inline constexpr const char* checksum_algorithm = "sha256/64KiB";

using Digest = std::array<std::byte, 32>;

/// SHA-256, for one thread at a time.
class Sha256 {
  public:
    Sha256();
    Sha256(const Sha256&) = delete;
    Sha256& operator=(const Sha256&) = delete;
    ~Sha256();

    void add(std::span<const std::byte> bytes);
    /// Of all that was added; then it begins anew.
    [[nodiscard]] Digest finish();

  private:
    struct Freer {
        void operator()(evp_md_ctx_st* context) const noexcept;
    };
    void begin();

    std::unique_ptr<evp_md_ctx_st, Freer> context_;
};

[[nodiscard]] std::string hexadecimal(std::span<const std::byte> bytes);
[[nodiscard]] bool all_zero(std::span<const std::byte> bytes);

/// Digests of single blocks; those of zeroes are not computed again and again. For one thread at a time.
class BlockHash {
  public:
    BlockHash();

    /// Of at most 64 KiB.
    [[nodiscard]] Digest of(std::span<const std::byte> block);
    [[nodiscard]] Digest of_zeroes(std::uint64_t bytes);
    [[nodiscard]] bool is_zero_block(const Digest& digest) const { return digest == zero_block_; }

  private:
    Sha256 hash_;
    Digest zero_block_{};
};

/// The checksum of a disk, from the digests of its blocks.
class DiskChecksum {
  public:
    explicit DiskChecksum(std::uint64_t size) : size_(size) {}

    void add(std::span<const Digest> digests);
    /// `count` blocks of zeroes, the last of which may be the disk's last.
    void add_zeroes(std::uint64_t first, std::uint64_t count);
    [[nodiscard]] std::string finish();

  private:
    std::uint64_t size_;
    Sha256 hash_;
    BlockHash blocks_;
};

}  // namespace volchain::client
