// SPDX-License-Identifier: MIT
//
// What the QEMU of a running VM does of a backup in push mode: it writes the files (pushed_files.h) from the moment that it holds.
#pragma once

#include <vector>

#include "storage/backups/backup_nodes.h"
#include "storage/backups/pushed_files.h"

namespace volchain::storage {

/// The image of a file that is being written, as arguments of blockdev-add.
[[nodiscard]] Json pushed_image_node(const std::string& name, const std::string& path);

/// Copies all disks, one after the other, with the job's progress, speed, pauses and cancel. What it leaves after an error,
/// remove_parts() removes, and BackupNodes::remove() takes out of QEMU.
async::Task<> push_disks(Engine& engine, JobPtr job, BackupNodes& nodes, std::vector<PushedFile> files,
                         bool compress);

}  // namespace volchain::storage
