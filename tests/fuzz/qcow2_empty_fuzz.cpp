// SPDX-License-Identifier: MIT
//
// Makes empty images of arbitrary options. They are refused with InvalidArgument, or the image is one
// that our own reader accepts and reads back as it was asked for.
#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>

#include "base/error.h"
#include "qcow2/allocation.h"
#include "qcow2/empty_image.h"

namespace volchain::qcow2 {
namespace {

void require(bool condition) {
    if (!condition) std::abort();
}

/// The file that the caller of empty_image() would write.
class EmptyImageSource final : public ImageSource {
  public:
    explicit EmptyImageSource(const EmptyImage& image) : image_(&image) {}

    [[nodiscard]] std::uint64_t size() const override { return image_->length; }
    void read(std::span<std::byte> buffer, std::uint64_t offset) const override {
        require(offset <= size() && buffer.size() <= size() - offset);
        std::fill(buffer.begin(), buffer.end(), std::byte{0});
        for (const Extent& extent : image_->extents) {
            const std::uint64_t begin = std::max(offset, extent.offset);
            const std::uint64_t end = std::min(offset + buffer.size(), extent.offset + extent.bytes.size());
            if (begin < end)
                std::memcpy(buffer.data() + (begin - offset), extent.bytes.data() + (begin - extent.offset),
                            end - begin);
        }
    }

  private:
    const EmptyImage* image_;
};

/// Takes numbers off the input, zeroes at its end.
class Input {
  public:
    explicit Input(std::span<const std::uint8_t> bytes) : bytes_(bytes) {}

    std::uint64_t number(std::size_t width) {
        std::uint64_t value = 0;
        for (std::size_t i = 0; i < width && !bytes_.empty(); ++i, bytes_ = bytes_.subspan(1))
            value = value << 8 | bytes_.front();
        return value;
    }
    std::string text(std::size_t length) {
        const auto taken = bytes_.first(std::min(length, bytes_.size()));
        bytes_ = bytes_.subspan(taken.size());
        return {taken.begin(), taken.end()};
    }

  private:
    std::span<const std::uint8_t> bytes_;
};

EmptyImageOptions options_from(Input input) {
    const std::uint64_t shape = input.number(4);
    EmptyImageOptions options(input.number(8) << (shape & 15));
    // Powers of two mostly, or few inputs would get any further.
    options.cluster_size = (std::uint64_t{1} << (shape >> 4 & 31)) + (shape >> 9 & 1);
    options.refcount_bits = (1U << (shape >> 10 & 7)) + (shape >> 13 & 1);
    options.extended_l2 = (shape >> 14 & 1) != 0;
    options.lazy_refcounts = (shape >> 15 & 1) != 0;
    options.compression = (shape >> 16 & 1) != 0 ? Compression::zstd : Compression::zlib;
    if ((shape >> 17 & 1) != 0) options.backing_format = input.text(shape >> 18 & 31);
    if ((shape >> 23 & 1) != 0) options.backing_file = input.text(2048);
    return options;
}

void check(const EmptyImageOptions& options, const EmptyImage& image) {
    const EmptyImageSource source(image);
    const Header header = read_header(source);
    require(header.virtual_size == options.virtual_size);
    require(header.cluster_size() == options.cluster_size);
    require(header.refcount_bits() == options.refcount_bits);
    require(header.features.extended_l2 == options.extended_l2);
    require(header.features.lazy_refcounts == options.lazy_refcounts);
    require(header.compression == options.compression);
    require(header.backing_file == options.backing_file);
    require(header.backing_format == options.backing_format);
    require(!has_data(source, header));
}

}  // namespace
}  // namespace volchain::qcow2

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace volchain;
    const auto options = qcow2::options_from(qcow2::Input({data, size}));
    qcow2::EmptyImage image;
    try {
        image = qcow2::empty_image(options);
    } catch (const Error& error) {
        qcow2::require(error.code() == ErrorCode::invalid_argument);
        return 0;
    }
    qcow2::check(options, image);
    return 0;
}
