// SPDX-License-Identifier: MIT
//
// ImportManifest: a VM taken over by its manifest (manifest.h): on another host, or on this one after its state was lost.
// Records are made, with the ids that they had; no image is touched. A manifest lies in a pool, where others may write, so
// it is believed no more than an image: every directory that it names has to be a pool already, or hold the manifest of
// the same VM, and what it says of chains is not even read.
#pragma once

#include <map>
#include <string>

#include "storage/engine.h"

namespace volchain::storage {

struct ManifestRequest {
    explicit ManifestRequest(std::string file) : path(std::move(file)) {}

    std::string path;
    std::string name;                          ///< of the VM; empty: as it was
    std::map<std::string, std::string> pools;  ///< where directories are now that were elsewhere
    /// Also where images stand on the active ones that are not in the manifest.
    bool ignore_newer = false;
};

/// The VM's id. AlreadyExists where something of it is known already, BrokenChain where there are newer images,
/// CorruptImage where the manifest is damaged.
async::Task<Uuid> import_manifest(Engine& engine, ManifestRequest request);

}  // namespace volchain::storage
