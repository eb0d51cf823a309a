// SPDX-License-Identifier: MIT
//
// The operations on pools: a directory becomes a pool, is looked at anew, is forgotten. Data is never deleted
// here.
#pragma once

#include "storage/engine.h"

namespace volchain::storage {

/// Registers an existing directory; with `create` it is made first. The pool's id.
async::Task<Uuid> create_pool(Engine& engine, std::string name, std::string path, bool create);

/// Forgets the pool and the floating disks in it. InUse where a VM has a disk in it, or a snapshot names one.
async::Task<> remove_pool(Engine& engine, Uuid pool);

/// Reads the state of the pool and the headers of its volumes again. The job's id; its result: "volumes" (how
/// many), "missing", "corrupt", and "unknown": image files in the directory that are no volumes.
async::Task<Uuid> refresh_pool(Engine& engine, Uuid pool, std::uint32_t owner_uid);

}  // namespace volchain::storage
