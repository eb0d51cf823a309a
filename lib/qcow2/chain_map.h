// SPDX-License-Identifier: MIT
//
// ChainMap: what is seen through some layers that stand on each other, from the maps of the layers (layer_map.h). Of a
// lower layer only those tables are read that those above it leave visible.
//
// As in QEMU, what is behind the end of a layer reads as zeroes and hides what is below it
// (bdrv_co_common_block_status_above() in block/io.c).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "qcow2/layer_map.h"

namespace volchain::qcow2 {

struct ChainExtent {
    std::uint64_t offset = 0;  // of the disk
    std::uint64_t length = 0;
    /// Absent: no layer says anything. Where the lowest one stands on nothing, that reads as zeroes.
    LayerKind kind = LayerKind::absent;

    friend bool operator==(const ChainExtent&, const ChainExtent&) = default;
};

/// `name` is for messages.
struct NamedLayer {
    LayerMap* map = nullptr;
    std::string name;
};

class ChainMap {
  public:
    /// `layers`: the topmost first. They outlive this, and nobody else reads from them meanwhile. None at all is
    /// allowed: then everything is absent.
    explicit ChainMap(std::vector<NamedLayer> layers);

    /// Of the topmost layer; 0 where there is none.
    [[nodiscard]] std::uint64_t virtual_size() const noexcept;

    /// What is seen from `offset` on, up to where it is something else, at most up to `end`. It may end earlier: no
    /// call looks at more than 1 GiB of the disk. From call to call `offset` does not go back. Errors are those of the
    /// layers' maps, with the layer's name.
    [[nodiscard]] ChainExtent at(std::uint64_t offset, std::uint64_t end);

  private:
    std::vector<NamedLayer> layers_;
};

/// Adds an extent to others that end where it begins, or lengthens the last one where both are alike.
void append(std::vector<ChainExtent>& extents, const ChainExtent& extent);

}  // namespace volchain::qcow2
