// SPDX-License-Identifier: MIT
//
// The files that a snapshot keeps beside its volumes, and the variable stores that some of them are copies of: how they are
// called, and how they stand in JSON. What is done with them: memory_file.h, nvram.h, snapshot_files.h.
#pragma once

#include <string>
#include <vector>

#include "storage/records/catalog.h"

namespace volchain::storage {

/// In the database and in plans.
[[nodiscard]] Json json_of(const std::vector<SnapshotFile>& files);
[[nodiscard]] std::vector<SnapshotFile> snapshot_files(const JsonReader& list);
[[nodiscard]] Json json_of(const std::vector<NvramStore>& stores);
[[nodiscard]] std::vector<NvramStore> nvram_stores(const JsonReader& list);

/// The snapshot that has this file; nil where none has.
[[nodiscard]] Uuid snapshot_with_file(const Catalog& catalog, const std::string& path);

/// In the directory of `beside` (relative to a pool), made of the VM's name and an id: "web-0123....memory".
[[nodiscard]] std::string memory_file_name(const std::string& beside, const std::string& vm, const Uuid& id);
/// The same for the copy of store number `index`: "web-0123....nvram0".
[[nodiscard]] std::string nvram_file_name(const std::string& beside, const std::string& vm, const Uuid& id,
                                          std::size_t index);

}  // namespace volchain::storage
