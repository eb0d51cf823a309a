// SPDX-License-Identifier: MIT
//
// The operations on snapshots that are there: what they are called.
#pragma once

#include <optional>
#include <string>

#include "storage/engine.h"

namespace volchain::storage {

/// AlreadyExists where the VM has a snapshot of that name; InvalidArgument where it is no name.
void check_snapshot_name(const Catalog& catalog, const Uuid& vm, const std::string& name);
/// The same for a snapshot of a floating disk.
void check_floating_snapshot_name(const Catalog& catalog, const Uuid& disk, const std::string& name);

/// The longest description, in bytes.
inline constexpr std::size_t max_description = 4096;
void check_description(const std::string& description);

/// Changes name and description; none: stays.
async::Task<> set_snapshot_metadata(Engine& engine, Uuid snapshot, std::optional<std::string> name,
                                    std::optional<std::string> description);

}  // namespace volchain::storage
