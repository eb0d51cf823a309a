// SPDX-License-Identifier: MIT
#include "qcow2/cursor.h"

#include <algorithm>

#include "base/error.h"

namespace volchain::qcow2 {
namespace {

/// Holds the header and extensions of nearly every image.
constexpr std::size_t read_ahead = 4096;

}  // namespace

Cursor::Cursor(const ImageSource& source, std::uint64_t begin, std::uint64_t end, std::string_view what)
    : source_(&source), offset_(begin), end_(std::max(begin, end)), what_(what) {}

std::string Cursor::text(std::size_t bytes) {
    const auto taken = take(bytes);
    std::string text(bytes, '\0');
    std::transform(taken.begin(), taken.end(), text.begin(),
                   [](std::byte b) { return static_cast<char>(b); });
    return text;
}

void Cursor::skip(std::uint64_t bytes) {
    need(bytes);
    offset_ += bytes;
}

void Cursor::skip_padding() noexcept {
    offset_ += std::min(remaining(), (8 - offset_ % 8) % 8);
}

std::span<const std::byte> Cursor::take(std::size_t bytes) {
    need(bytes);
    const std::uint64_t buffer_end = buffer_offset_ + buffer_.size();
    if (offset_ < buffer_offset_ || offset_ > buffer_end || buffer_end - offset_ < bytes) fill(bytes);
    const auto taken = std::span<const std::byte>(buffer_).subspan(
        static_cast<std::size_t>(offset_ - buffer_offset_), bytes);
    offset_ += bytes;
    return taken;
}

void Cursor::need(std::uint64_t bytes) const {
    if (bytes > remaining())
        throw Error(ErrorCode::corrupt_image,
                    "the {} ends at offset {}, but the entry at {} needs {} more bytes", what_, end_, offset_,
                    bytes);
}

void Cursor::fill(std::size_t bytes) {
    const auto wanted = std::max(bytes, read_ahead);
    buffer_.resize(static_cast<std::size_t>(std::min<std::uint64_t>(wanted, remaining())));
    buffer_offset_ = offset_;
    source_->read(buffer_, offset_);
}

}  // namespace volchain::qcow2
