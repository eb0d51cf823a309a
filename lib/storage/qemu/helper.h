// SPDX-License-Identifier: MIT
//
// Storage daemons and qemu-img as helpers of one operation: with the identity that owns the image, limits, and access to
// that image alone.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "qmp/qemu_img.h"
#include "qmp/storage_daemon.h"
#include "storage/engine.h"

namespace volchain::storage {

/// A class with a constructor, so that it may be handed to coroutines.
struct ImageAccess {
    ImageAccess(std::string image, bool writes) : path(std::move(image)), write(writes) {}
    std::string path;
    bool write;
};

/// Who is to work on these images of pools: the owner of the first one that is written to, or of the first one. Throws
/// UnsafeImage for what is no plain file, or must not be worked on with root's rights.
[[nodiscard]] async::Task<async::Identity> identity_for(Engine& engine, std::vector<ImageAccess> images);

/// A storage daemon that may open these images and nothing else. It runs as the owner of the first one that it writes to,
/// or of the first one. It is our child and ends with the operation.
[[nodiscard]] async::Task<std::shared_ptr<qmp::StorageDaemon>> start_storage_daemon(
    Engine& engine, std::vector<ImageAccess> images);
/// The same with an NBD server that serves one client on a listening socket. The socket stays the caller's, who needs it no
/// more when this returns.
[[nodiscard]] async::Task<std::shared_ptr<qmp::StorageDaemon>> start_nbd_daemon(
    Engine& engine, std::vector<ImageAccess> images, int listening);
/// A storage daemon that may read these images of pools, and write to the existing file `target`, which lies wherever it does. It
/// runs as the owner of the first image.
[[nodiscard]] async::Task<std::shared_ptr<qmp::StorageDaemon>> start_copying_daemon(
    Engine& engine, std::vector<ImageAccess> images, std::string target);
/// A storage daemon that may write to the existing file `image` and open nothing else. It is our child and
/// ends with the operation.
[[nodiscard]] async::Task<std::shared_ptr<qmp::StorageDaemon>> start_storage_daemon(Engine& engine,
                                                                                    std::string image);

/// qemu-img that may open these images of pools and nothing else, with the same identity.
[[nodiscard]] async::Task<qmp::QemuImg> helper_qemu_img(Engine& engine, std::vector<ImageAccess> images);

/// The version of the QEMU that storage daemons are of, by starting one. Throws where there is none that can be used.
[[nodiscard]] async::Task<std::string> probe_storage_daemon(Engine& engine);

}  // namespace volchain::storage
