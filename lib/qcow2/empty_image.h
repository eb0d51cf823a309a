// SPDX-License-Identifier: MIT
//
// empty_image(): the bytes of a new qcow2 version 3 image in which nothing is allocated yet, as
// "qemu-img create" would write it.
//
// It makes bytes and touches no file: the caller has a new, empty file, writes the extents and sets the
// length. All that is not in an extent is a hole. With clusters of 64 KiB, an image of any size takes less
// than 3 KiB to write, so many overlays can be made at once and then flushed together.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "qcow2/header.h"

namespace volchain::qcow2 {

struct EmptyImageOptions {
    explicit EmptyImageOptions(std::uint64_t size) noexcept : virtual_size(size) {}

    /// A backing file always comes with its format: without one, QEMU probes, and believes what a guest
    /// wrote.
    EmptyImageOptions& on(std::string file, std::string format) {
        backing_file = std::move(file);
        backing_format = std::move(format);
        return *this;
    }

    std::uint64_t virtual_size;          // a multiple of 512
    std::uint64_t cluster_size = 65536;  // a power of two, 512 to 2 MiB
    bool extended_l2 = false;            // needs clusters of at least 16 KiB
    Compression compression = Compression::zlib;
    bool lazy_refcounts = false;
    std::uint32_t refcount_bits = 16;         // a power of two, 1 to 64
    std::optional<std::string> backing_file;  // at most 1023 bytes, and what fits in the first cluster
    std::optional<std::string> backing_format;
    std::optional<std::string> label;  // at most 1023 bytes (Header::label)
};

struct Extent {
    std::uint64_t offset = 0;
    std::vector<std::byte> bytes;
};

struct EmptyImage {
    std::vector<Extent> extents;  // ascending, apart from each other
    std::uint64_t length = 0;     // of the file
};

/// InvalidArgument for options that do not go together or that QEMU could not open.
[[nodiscard]] EmptyImage empty_image(const EmptyImageOptions& options);

}  // namespace volchain::qcow2
