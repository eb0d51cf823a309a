// SPDX-License-Identifier: MIT
#include "storage/images/block_digest.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace volchain::storage {
namespace {

/// So many zero blocks are added in one go.
constexpr std::size_t zero_blocks_at_once = 1024;

const EVP_MD* function_of(ChecksumAlgorithm algorithm) {
    switch (algorithm) {
        case ChecksumAlgorithm::sha256:
            return ::EVP_sha256();
        case ChecksumAlgorithm::blake2b512:
            break;
    }
    return ::EVP_blake2b512();
}

void expect(int result) {
    if (result != 1)
        throw Error(ErrorCode::unsupported,
                    "libcrypto refuses the hash function; a system in FIPS mode has sha256 only");
}

bool is_zero(std::span<const std::byte> bytes) {
    return bytes.front() == std::byte{0} &&
           std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0;
}

const std::vector<std::byte>& zero_block() {
    static const std::vector<std::byte> block(BlockDigest::block_bytes);
    return block;
}

}  // namespace

void BlockDigest::Freer::operator()(evp_md_ctx_st* context) const noexcept {
    ::EVP_MD_CTX_free(context);
}

BlockDigest::BlockDigest(ChecksumAlgorithm algorithm)
    : function_(function_of(algorithm)), all_(new_context()), block_(new_context()) {
    const Digest zero = digest_of(zero_block());
    digest_bytes_ = zero.size();
    for (std::size_t i = 0; i < zero_blocks_at_once; ++i)
        of_zeroes_.insert(of_zeroes_.end(), zero.begin(), zero.end());
}

BlockDigest::~BlockDigest() = default;

BlockDigest::Context BlockDigest::new_context() const {
    Context context(::EVP_MD_CTX_new());
    if (context == nullptr) throw std::bad_alloc();
    expect(::EVP_DigestInit_ex(context.get(), function_, nullptr));
    return context;
}

void BlockDigest::add(std::span<const std::byte> data) {
    size_ += data.size();
    while (!data.empty()) {
        const auto block = data.first(std::min<std::size_t>(data.size(), block_bytes));
        if (block.size() == block_bytes && is_zero(block))
            add_digests(std::span(of_zeroes_).first(digest_bytes_));
        else
            add_digests(digest_of(block));
        data = data.subspan(block.size());
    }
}

void BlockDigest::add_zeroes(std::uint64_t bytes) {
    size_ += bytes;
    for (std::uint64_t blocks = bytes / block_bytes; blocks > 0;) {
        const std::uint64_t now = std::min<std::uint64_t>(blocks, zero_blocks_at_once);
        add_digests(std::span(of_zeroes_).first(static_cast<std::size_t>(now) * digest_bytes_));
        blocks -= now;
    }
    const auto rest = static_cast<std::size_t>(bytes % block_bytes);
    if (rest != 0) add_digests(digest_of(std::span(zero_block()).first(rest)));
}

std::string BlockDigest::finish() {
    std::array<unsigned char, 8> size{};
    for (std::size_t i = 0; i < size.size(); ++i) size[i] = static_cast<unsigned char>(size_ >> (8 * i));
    add_digests(size);
    Digest digest(EVP_MAX_MD_SIZE);
    unsigned int length = 0;
    expect(::EVP_DigestFinal_ex(all_.get(), digest.data(), &length));
    std::string text;
    for (std::size_t i = 0; i < length; ++i) text += fmt::format("{:02x}", digest[i]);
    return text;
}

BlockDigest::Digest BlockDigest::digest_of(std::span<const std::byte> block) {
    Digest digest(EVP_MAX_MD_SIZE);
    unsigned int length = 0;
    expect(::EVP_DigestInit_ex(block_.get(), nullptr, nullptr));
    expect(::EVP_DigestUpdate(block_.get(), block.data(), block.size()));
    expect(::EVP_DigestFinal_ex(block_.get(), digest.data(), &length));
    digest.resize(length);
    return digest;
}

void BlockDigest::add_digests(std::span<const unsigned char> digests) {
    expect(::EVP_DigestUpdate(all_.get(), digests.data(), digests.size()));
}

}  // namespace volchain::storage
