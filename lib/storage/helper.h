// SPDX-License-Identifier: MIT
//
// Storage daemons as helpers of one operation: with the identity that owns the image, limits, and access to
// that image alone.
#pragma once

#include <memory>
#include <string>

#include "qmp/storage_daemon.h"
#include "storage/engine.h"

namespace volchain::storage {

/// A storage daemon that may write to the existing file `image` and open nothing else. It is our child and
/// ends with the operation.
[[nodiscard]] async::Task<std::shared_ptr<qmp::StorageDaemon>> start_storage_daemon(Engine& engine,
                                                                                    std::string image);

/// The version of the QEMU that storage daemons are of, by starting one. Throws where there is none that can be used.
[[nodiscard]] async::Task<std::string> probe_storage_daemon(Engine& engine);

}  // namespace volchain::storage
