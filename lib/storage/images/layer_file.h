// SPDX-License-Identifier: MIT
//
// The images of a chain as files: where one lies, and one that is open for reading with the map of what it holds by itself.
// Opening and reading block: on a worker thread.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "base/unique_fd.h"
#include "qcow2/image_source.h"
#include "qcow2/layer_map.h"
#include "storage/records/catalog.h"

namespace volchain::storage {

/// A class with a constructor, so that it may be handed to coroutines.
struct LayerFile {
    LayerFile(std::string directory, std::string name, VolumeFormat declared)
        : pool(std::move(directory)), file(std::move(name)), format(declared) {}

    [[nodiscard]] std::string path() const { return (std::filesystem::path(pool) / file).string(); }

    std::string pool;  ///< directory
    std::string file;  ///< relative to it
    VolumeFormat format;
};

[[nodiscard]] LayerFile layer_file(const Catalog& catalog, const Uuid& volume);

class OpenLayer {
  public:
    /// BrokenChain where the file is not there. No locks are looked at.
    explicit OpenLayer(const LayerFile& layer);

    [[nodiscard]] qcow2::LayerMap& map() noexcept { return *map_; }
    [[nodiscard]] int fd() const noexcept { return fd_.get(); }
    /// What the file takes of the file system.
    [[nodiscard]] std::uint64_t allocated() const;
    /// The path of the backing file that the header names; empty where that is no plain path, none where there is none.
    [[nodiscard]] const std::optional<std::string>& backing() const noexcept { return backing_; }

  private:
    UniqueFd fd_;
    std::unique_ptr<qcow2::FileSource> source_;
    std::unique_ptr<qcow2::LayerMap> map_;
    std::optional<std::string> backing_;
};

}  // namespace volchain::storage
