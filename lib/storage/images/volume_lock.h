// SPDX-License-Identifier: MIT
//
// QEMU's own locks (qmp/image_lock.h) on volumes, for work on them offline: on a volume that is written to or goes,
// as a writer, which proves that nobody has it open; on one that is read, as a reader, which proves that nobody
// writes to it. A file that cannot be opened is BrokenChain, one that is locked is InUse.
#pragma once

#include <optional>

#include "qmp/image_lock.h"
#include "storage/engine.h"

namespace volchain::storage {

[[nodiscard]] async::Task<qmp::ImageLock> lock_for_writing(Engine& engine, Uuid volume);
[[nodiscard]] async::Task<qmp::ImageLock> lock_for_reading(Engine& engine, Uuid volume);
/// Of a volume that is given up: none where the file is not in the pool's directory any more.
[[nodiscard]] async::Task<std::optional<qmp::ImageLock>> lock_if_there(Engine& engine, Uuid volume);

}  // namespace volchain::storage
