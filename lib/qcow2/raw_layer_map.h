// SPDX-License-Identifier: MIT
//
// RawLayerMap: what a raw file holds: data, and zeroes where it has holes. A raw layer has nothing below
// it, so nothing is absent. Where the file system cannot tell holes, and of a block device, all is data.
#pragma once

#include <cstdint>

#include "qcow2/layer_map.h"

namespace volchain::qcow2 {

class RawLayerMap final : public LayerMap {
  public:
    /// A file that the caller has open for reading and keeps open; its file offset is moved. The size is
    /// looked at once, here: in whole sectors, as QEMU has it. UnsafeImage as with FileSource.
    explicit RawLayerMap(int fd);

  private:
    [[nodiscard]] LayerExtent piece(std::uint64_t offset) override;

    int fd_;
};

}  // namespace volchain::qcow2
