// SPDX-License-Identifier: MIT
//
// SnapshotFiles: the files of a snapshot in the making that are no volumes: its memory, and copies of the variable stores
// of the VM's firmware. They lie beside the volume of the VM's first disk, with its owner, mode, ACL and label. The
// operation owns it, and its plan says what there is to be taken away after a crash.
//
// A copy of a store is made at the snapshot's instant: while the guest is frozen or stands still, where it does. A store
// that the guest is just writing to is as after a power cut, which firmware is made for.
//
// What writes the memory is MemoryWriter (memory_writer.h).
#pragma once

#include <string>
#include <vector>

#include "storage/engine.h"

namespace volchain::storage {

class SnapshotFiles {
  public:
    explicit SnapshotFiles(Engine& engine) : engine_(engine) {}
    /// Plans them: a copy of each store of the VM, and with `memory` a file for that. `beside`: a volume.
    SnapshotFiles(Engine& engine, const VmRecord& vm, const Uuid& snapshot, const Uuid& beside, bool memory);

    [[nodiscard]] Json plan() const;
    [[nodiscard]] static SnapshotFiles from_plan(Engine& engine, const JsonReader& plan);

    /// The file for the memory; null: none is planned.
    [[nodiscard]] const SnapshotFile* memory() const;
    [[nodiscard]] std::string pool_path(const SnapshotFile& file) const;

    // The steps, in this order.
    /// The empty files. Throws where a store is not there, or not what was named.
    async::Task<> create();
    /// The content of the stores, as it is now. What cannot be read in time is left out, and lost() says why.
    async::Task<> copy_stores();
    /// Makes durable what is whole, and takes the rest away: the memory too, unless it was written. What the snapshot has.
    async::Task<std::vector<SnapshotFile>> settle(bool with_memory);
    /// Takes all of them away. One that cannot go is remembered as unwanted.
    async::Task<> remove();

    [[nodiscard]] const std::vector<std::string>& lost() const noexcept { return lost_; }

  private:
    async::Task<> create_one(std::size_t index);
    async::Task<> copy_one(std::size_t index);
    async::Task<bool> settle_one(std::size_t index, bool with_memory);
    async::Task<> remove_one(SnapshotFile file);

    Engine& engine_;
    std::vector<SnapshotFile> files_;
    std::vector<NvramStore> stores_;  ///< of the copies, in their order; empty after a crash
    std::string model_pool_;          ///< directory
    std::string model_;               ///< the volume that they are like
    std::vector<std::string> lost_;
};

}  // namespace volchain::storage
