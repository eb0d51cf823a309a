// SPDX-License-Identifier: MIT
//
// Variable stores of a VM's firmware (UEFI): named by whoever registers the VM, copied into snapshots, and replaced by such
// a copy when the VM is to be again what it was.
//
// They lie anywhere on the host, and the daemon may read and write anything: so a path is taken only from a caller who could
// read and write the file himself, and from then on only a regular file with one name and with that owner, to which no
// symbolic link leads, is read or replaced there. A store is raw: what QEMU keeps in an image is a disk.
//
// Blocking: for a worker thread.
#pragma once

#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "qmp/image_lock.h"
#include "storage/images/user_rights.h"
#include "storage/records/records.h"

namespace volchain::storage {

/// The largest store: those of ARM machines are padded to this, those of PCs are a hundredth of it.
inline constexpr std::uint64_t max_nvram_bytes = std::uint64_t{64} << 20;
inline constexpr std::size_t max_nvram_stores = 8;

/// The stores at these paths, as somebody with these rights may name them. InvalidArgument, AccessDenied, NotFound.
[[nodiscard]] std::vector<NvramStore> named_stores(const std::vector<std::string>& paths,
                                                   const UserRights& caller);

/// How large it is now. Throws where it cannot be read, or is not what was named.
[[nodiscard]] std::uint64_t store_bytes(const NvramStore& store);

/// Its content, as it was at one instant: also while a guest may be writing to it. Busy where it does not hold still.
[[nodiscard]] std::string read_store(const NvramStore& store);

/// QEMU's own lock on it: InUse where a process has it open. None where it is not there.
[[nodiscard]] std::optional<qmp::ImageLock> lock_store(const NvramStore& store);

/// A copy that was kept of one, beneath a pool.
[[nodiscard]] std::string read_copy(const std::string& pool, const SnapshotFile& copy);
/// Fills the file of a copy, which is there and empty. Not flushed.
void fill_copy(const std::string& pool, const std::string& file, const std::string& content);

/// Puts the content in its place: whoever opens it finds the old or the new one, also after a power cut. It has the rights
/// that it had; where it is gone, those of the copy.
void replace_store(const NvramStore& store, const std::string& content, const std::string& copy_pool,
                   const SnapshotFile& copy);

}  // namespace volchain::storage
