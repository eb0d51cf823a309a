// SPDX-License-Identifier: MIT
//
// ResizeDisk: the disk that the guest sees becomes larger, or smaller where that is said. In the running VM by its QEMU;
// offline, a qcow2 image in a storage daemon and a raw one by us, with QEMU's own write lock. Persistent bitmaps stay.
//
// Steps: resize, finish. What QEMU made of it is read from the image, also after a crash: the size is either the one
// or the other, and the job says which.
#pragma once

#include "storage/engine.h"

namespace volchain::storage {

struct ResizeRequest {
    ResizeRequest(const Uuid& which, std::uint64_t bytes) : disk(which), size(bytes) {}

    Uuid disk;
    std::uint64_t size;   ///< a multiple of 512; not below what the backing volume shows
    bool shrink = false;  ///< the end of the disk may be cut off
    std::uint32_t owner_uid = 0;
};

/// The job's id. Its result: "size-bytes"; "before-bytes", what it was.
async::Task<Uuid> resize_disk(Engine& engine, ResizeRequest request);
async::Task<> recover_resize_disk(Engine& engine, JobPtr job);
[[nodiscard]] std::vector<ObjectId> locks_of_resize_disk(const JobRecord& job);

}  // namespace volchain::storage
