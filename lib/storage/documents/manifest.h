// SPDX-License-Identifier: MIT
//
// Manifest: what is recorded of a VM, as a JSON document in `.volchain/<id>.json` of every pool that holds
// its disks or files of its snapshots, so that this host after losing its state, or another one, can take the VM over. It is a copy:
// the database is what counts here, and chains are read from the headers in any case.
#pragma once

#include <string>
#include <vector>

#include "storage/records/catalog.h"

namespace volchain::storage {

inline constexpr std::uint64_t manifest_version = 1;

/// The document, as it is the same in all pools.
[[nodiscard]] Json manifest(const Catalog& catalog, const Uuid& vm);

/// The directories of the pools that it belongs in.
[[nodiscard]] std::vector<std::string> manifest_pools(const Catalog& catalog, const Uuid& vm);

/// Replaces the manifest in one pool, and says in it which one that was. Blocking.
void write_manifest(const std::string& pool, const Uuid& vm, Json document);

}  // namespace volchain::storage
