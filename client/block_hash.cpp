// SPDX-License-Identifier: MIT
#include "client/block_hash.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <vector>

#include "base/error.h"
#include "client/block_runs.h"

namespace volchain::client {
namespace {

/// So many digests of zero blocks are added in one go.
constexpr std::size_t zero_digests_at_once = 1024;

void hash_must(int result) {
    if (result != 1) throw Error(ErrorCode::unsupported, "libcrypto refuses SHA-256");
}

const std::vector<std::byte>& block_of_zeroes() {
    static const std::vector<std::byte> block(block_bytes);
    return block;
}

}  // namespace

void Sha256::Freer::operator()(evp_md_ctx_st* context) const noexcept {
    ::EVP_MD_CTX_free(context);
}

Sha256::Sha256() : context_(::EVP_MD_CTX_new()) {
    if (context_ == nullptr) throw std::bad_alloc();
    hash_must(::EVP_DigestInit_ex(context_.get(), ::EVP_sha256(), nullptr));
}

Sha256::~Sha256() = default;

void Sha256::add(std::span<const std::byte> bytes) {
    hash_must(::EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()));
}

Digest Sha256::finish() {
    Digest digest{};
    unsigned int length = 0;
    hash_must(::EVP_DigestFinal_ex(context_.get(), reinterpret_cast<unsigned char*>(digest.data()), &length));
    begin();
    return digest;
}

void Sha256::begin() {
    hash_must(::EVP_DigestInit_ex(context_.get(), nullptr, nullptr));
}

std::string hexadecimal(std::span<const std::byte> bytes) {
    std::string text;
    for (const std::byte byte : bytes) text += fmt::format("{:02x}", std::to_integer<unsigned>(byte));
    return text;
}

bool all_zero(std::span<const std::byte> bytes) {
    return bytes.empty() || (bytes.front() == std::byte{0} &&
                             std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0);
}

BlockHash::BlockHash() {
    hash_.add(block_of_zeroes());
    zero_block_ = hash_.finish();
}

Digest BlockHash::of(std::span<const std::byte> block) {
    if (block.size() == block_bytes && all_zero(block)) return zero_block_;
    hash_.add(block);
    return hash_.finish();
}

Digest BlockHash::of_zeroes(std::uint64_t bytes) {
    return of(std::span(block_of_zeroes()).first(static_cast<std::size_t>(bytes)));
}

void DiskChecksum::add(std::span<const Digest> digests) {
    hash_.add(std::as_bytes(digests));
}

void DiskChecksum::add_zeroes(std::uint64_t first, std::uint64_t count) {
    const bool to_the_end = first + count == blocks_of(size_);
    const std::uint64_t last = to_the_end ? size_ % block_bytes : 0;
    std::uint64_t whole = count - (last != 0 ? 1 : 0);
    const std::vector<Digest> many(
        static_cast<std::size_t>(std::min<std::uint64_t>(whole, zero_digests_at_once)),
        blocks_.of_zeroes(block_bytes));
    while (whole > 0) {
        const auto now = static_cast<std::size_t>(std::min<std::uint64_t>(whole, many.size()));
        add(std::span(many).first(now));
        whole -= now;
    }
    if (last == 0) return;
    const Digest shorter = blocks_.of_zeroes(last);
    add(std::span(&shorter, 1));
}

std::string DiskChecksum::finish() {
    std::array<std::byte, 8> size{};
    for (std::size_t i = 0; i < size.size(); ++i) size[i] = static_cast<std::byte>(size_ >> (8 * i));
    hash_.add(size);
    return hexadecimal(hash_.finish());
}

}  // namespace volchain::client
