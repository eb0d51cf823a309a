// SPDX-License-Identifier: MIT
//
// The operation that forgets a checkpoint: its bitmaps go from all images of the VM's disks, or as soon as that can be: what
// a running VM stands on keeps its part until the checkpoint is deleted while the VM is down, or a merge comes by.
//
// Steps: drop. It can be done again; after a crash it is carried on.
#pragma once

#include <string>

#include "storage/engine.h"

namespace volchain::storage {

/// The job's id. Result: "left", the paths of images in which a part stays for now.
async::Task<Uuid> delete_checkpoint(Engine& engine, Uuid vm, std::string name, std::uint32_t owner_uid);

async::Task<> recover_delete_checkpoint(Engine& engine, JobPtr job);
[[nodiscard]] std::vector<ObjectId> locks_of_delete_checkpoint(const JobRecord& job);

}  // namespace volchain::storage
