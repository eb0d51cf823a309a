// SPDX-License-Identifier: MIT
//
// The table of internal snapshots: states of the disk that live inside the image itself. volchain makes
// none, but has to know of those that are there.
//
// A table of more than 4 MiB (the 65,536 snapshots that QEMU allows, with short names; QEMU's limit is
// 64 MiB) is refused with Unsupported.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "qcow2/header.h"

namespace volchain::qcow2 {

struct Snapshot {
    std::string id;    // bytes
    std::string name;  // bytes
    std::uint64_t disk_size = 0;
    std::uint64_t vm_state_bytes = 0;  // 0: of the disk alone
    std::uint32_t created_sec = 0;     // since the epoch
    std::uint32_t created_nsec = 0;
    std::uint64_t vm_clock_nsec = 0;  // how long the VM had run
    Region l1_table;
};

/// The snapshots of the image that `header` was read from, in the order of the table.
[[nodiscard]] std::vector<Snapshot> read_snapshots(const ImageSource& source, const Header& header);

}  // namespace volchain::qcow2
