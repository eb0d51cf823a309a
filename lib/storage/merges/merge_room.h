// SPDX-License-Identifier: MIT
//
// The room that a merge takes of the file system, measured from the tables of the images before the first byte is
// written. Blocking: run on a worker thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "storage/images/layer_file.h"

namespace volchain::storage {

/// How many bytes `target` grows by when what the sources hold is written to it, at most: clusters that several of them
/// have are counted for each, and a source that a guest writes to is taken as it is on disk now: what QEMU has not flushed is
/// missing. `zeroes`: areas of zeroes are written as data, which the commit of an inner layer does (QEMU 7.2).
[[nodiscard]] std::uint64_t room_needed(const std::vector<LayerFile>& sources, const LayerFile& target,
                                        bool zeroes);

/// What is free in the file system of the directory that `path` is in, in bytes.
[[nodiscard]] std::uint64_t room_beside(const std::string& path);

}  // namespace volchain::storage
