// SPDX-License-Identifier: MIT
//
// Cursor: reads one structure of an image front to back (the header, the extension area, a directory),
// big-endian numbers and text, in small buffered pieces. It never leaves the range that it was given:
// where an entry wants more bytes than the structure has left, it throws CorruptImage. Internal to this
// library.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "qcow2/big_endian.h"
#include "qcow2/image_source.h"

namespace volchain::qcow2 {

class Cursor {
  public:
    /// From offset `begin` up to `end` of `source`, which outlives the cursor. `what` is a literal: what
    /// the range is, for messages ("bitmap directory").
    Cursor(const ImageSource& source, std::uint64_t begin, std::uint64_t end, std::string_view what);

    /// In the file, not in the range.
    [[nodiscard]] std::uint64_t offset() const noexcept { return offset_; }
    [[nodiscard]] std::uint64_t remaining() const noexcept { return end_ - offset_; }

    template <std::unsigned_integral T>
    [[nodiscard]] T number() {
        return load_be<T>(take(sizeof(T)));
    }
    /// The next `bytes` bytes, as they are.
    [[nodiscard]] std::string text(std::size_t bytes);
    void skip(std::uint64_t bytes);
    /// To the next multiple of 8, or to the end of the range if that comes first: entries of tables and
    /// extensions are padded so, and not every writer pads the last one.
    void skip_padding() noexcept;

  private:
    [[nodiscard]] std::span<const std::byte> take(std::size_t bytes);
    void need(std::uint64_t bytes) const;
    void fill(std::size_t bytes);

    const ImageSource* source_;
    std::uint64_t offset_;
    std::uint64_t end_;
    std::string_view what_;
    std::vector<std::byte> buffer_;
    std::uint64_t buffer_offset_ = 0;  // of the buffer's first byte in the file
};

}  // namespace volchain::qcow2
