// SPDX-License-Identifier: MIT
//
// ImportDisk: an image that lies in a pool, with the chain below it, becomes a disk, in place, or a copy does
// (import_copy.h). Every image of
// the chain is read and judged by our own reader before it is anybody's; QEMU opens none of them.
#pragma once

#include <optional>

#include "storage/engine.h"

namespace volchain::storage {

struct ImportRequest {
    ImportRequest(const Uuid& into, std::string image) : pool(into), path(std::move(image)) {}

    Uuid pool;
    std::string path;                    ///< absolute, or relative to the pool
    std::string name;                    ///< empty: made from the file's name
    std::optional<VolumeFormat> format;  ///< none: it must be qcow2
    bool copy = false;                   ///< opened with the rights of owner_uid, from anywhere
    std::uint32_t owner_uid = 0;
};

/// The job's id. Its result: "disk", "volume".
async::Task<Uuid> import_disk(Engine& engine, ImportRequest request);

}  // namespace volchain::storage
