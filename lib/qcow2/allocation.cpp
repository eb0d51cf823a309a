// SPDX-License-Identifier: MIT
#include "qcow2/allocation.h"

#include <algorithm>
#include <cstddef>
#include <vector>

namespace volchain::qcow2 {
namespace {

constexpr std::uint64_t piece_bytes = 64U << 10;

}  // namespace

bool has_data(const ImageSource& source, const Header& header) {
    const Region& table = header.l1_table;
    std::vector<std::byte> piece(static_cast<std::size_t>(std::min(piece_bytes, table.bytes)));
    for (std::uint64_t done = 0; done < table.bytes; done += piece.size()) {
        piece.resize(static_cast<std::size_t>(std::min(piece_bytes, table.bytes - done)));
        source.read(piece, table.offset + done);
        if (std::any_of(piece.begin(), piece.end(), [](std::byte b) { return b != std::byte{0}; }))
            return true;
    }
    return false;
}

}  // namespace volchain::qcow2
