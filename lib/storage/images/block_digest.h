// SPDX-License-Identifier: MIT
//
// BlockDigest: a checksum of the content of a disk that costs little where the disk is empty, and is the same for the same
// content whatever image that is in. With H, a hash function, and the disk cut into blocks of 64 KiB, of which the last may
// be shorter, it is
//
//     H( H(block 1) H(block 2) ... H(block N) SIZE )
//
// where SIZE is the disk's size in bytes as 8 bytes, the least significant first. The hash of a block of zeroes is known
// beforehand.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/enum_names.h"

struct evp_md_ctx_st;
struct evp_md_st;

namespace volchain::storage {

enum class ChecksumAlgorithm { sha256, blake2b512 };
constexpr auto enum_names(ChecksumAlgorithm) {
    return std::to_array<EnumName<ChecksumAlgorithm>>(
        {{ChecksumAlgorithm::sha256, "sha256/64KiB"}, {ChecksumAlgorithm::blake2b512, "blake2b512/64KiB"}});
}

class BlockDigest {
  public:
    static constexpr std::uint64_t block_bytes = 65536;

    explicit BlockDigest(ChecksumAlgorithm algorithm);
    BlockDigest(const BlockDigest&) = delete;
    BlockDigest& operator=(const BlockDigest&) = delete;
    ~BlockDigest();

    // What comes next: whole blocks, but for the last of the disk.
    void add(std::span<const std::byte> data);
    void add_zeroes(std::uint64_t bytes);

    /// When all of the disk was added: in hexadecimal digits.
    [[nodiscard]] std::string finish();

  private:
    using Digest = std::vector<unsigned char>;
    struct Freer {
        void operator()(evp_md_ctx_st* context) const noexcept;
    };
    using Context = std::unique_ptr<evp_md_ctx_st, Freer>;

    [[nodiscard]] Context new_context() const;
    [[nodiscard]] Digest digest_of(std::span<const std::byte> block);
    void add_digests(std::span<const unsigned char> digests);

    const evp_md_st* function_;
    Context all_;    ///< of the digests of blocks
    Context block_;  ///< used for one block after the other
    std::uint64_t size_ = 0;
    Digest of_zeroes_;  ///< the digest of a block of zeroes, many times
    std::size_t digest_bytes_ = 0;
};

}  // namespace volchain::storage
