// SPDX-License-Identifier: MIT
//
// What the fuzzers of lib/qcow2's readers share: an input as an image, and what a refusal may be.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <span>

#include "base/error.h"
#include "qcow2/image_source.h"

namespace volchain::qcow2 {

inline void require(bool condition) {
    if (!condition) std::abort();
}

/// An input followed by zeroes, which counts what is read of it.
class PaddedSource final : public ImageSource {
  public:
    PaddedSource(std::span<const std::byte> bytes, std::uint64_t padding)
        : bytes_(bytes), padding_(padding) {}

    [[nodiscard]] std::uint64_t size() const override { return bytes_.size() + padding_; }
    void read(std::span<std::byte> buffer, std::uint64_t offset) const override {
        require(offset <= size() && buffer.size() <= size() - offset);
        done_ += buffer.size();
        ++calls_;
        const auto known =
            bytes_.subspan(static_cast<std::size_t>(std::min<std::uint64_t>(offset, bytes_.size())));
        const auto some = known.first(std::min(known.size(), buffer.size()));
        std::fill(std::copy(some.begin(), some.end(), buffer.begin()), buffer.end(), std::byte{0});
    }

    /// Fails if more was read since the last call.
    void expect_at_most(std::uint64_t bytes) const {
        require(done_ <= bytes);
        require(calls_ <= 8 + bytes / 1024);
        done_ = calls_ = 0;
    }

  private:
    std::span<const std::byte> bytes_;
    std::uint64_t padding_;
    mutable std::uint64_t done_ = 0;
    mutable std::uint64_t calls_ = 0;
};

/// Whether `read` accepts; a refusal is of one of the two kinds and says why.
inline bool accepted(const std::function<void()>& read) {
    try {
        read();
        return true;
    } catch (const Error& error) {
        require(error.code() == ErrorCode::corrupt_image || error.code() == ErrorCode::unsupported);
        require(error.what()[0] != '\0');
        return false;
    }
}

}  // namespace volchain::qcow2
