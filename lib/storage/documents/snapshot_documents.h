// SPDX-License-Identifier: MIT
//
// Snapshots as libvirt's documents (snapshot_xml.h): one of ours told in libvirt's words, and one that a document tells
// of made a record again ("redefine"). Data is neither read nor moved: an import only says which volumes, that are there
// already, hold what a snapshot was, and which file its memory.
//
// The memory is QEMU's own stream, without the header that libvirt puts before it: volchain reads both, libvirt the other one
// alone.
#pragma once

#include <optional>
#include <string>

#include "storage/engine.h"

namespace volchain::storage {

/// The document. Busy while the snapshot is being made or deleted, Unsupported where it was left half deleted.
[[nodiscard]] std::string snapshot_document(const Catalog& catalog, const Uuid& snapshot);

/// The id of the snapshot that the document tells of. `current`: whether it becomes the VM's current one; none: where
/// the document says so. InvalidArgument, NotFound, AlreadyExists, BrokenChain and Unsupported say why it cannot be.
async::Task<Uuid> import_snapshot_document(Engine& engine, Uuid vm, std::string xml,
                                           std::optional<bool> current);

}  // namespace volchain::storage
