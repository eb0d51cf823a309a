// SPDX-License-Identifier: MIT
//
// NvramSwap: the variable stores of a VM that is down get the content that a snapshot, or the time before a preview, has kept,
// together with its disks. The operation owns it; its plan says what is to be done after the switch, which is done again
// after a crash.
//
// lock() and keep_former() come before the switch and can be undone; replace() comes after it. A store that cannot be
// replaced then is named in what it returns: the disks are what they are to be in any case.
#pragma once

#include <string>
#include <vector>

#include "qmp/image_lock.h"
#include "storage/engine.h"

namespace volchain::storage {

/// Which copy is for which store: by path; of a VM that has its stores elsewhere now, by their order.
[[nodiscard]] std::vector<std::pair<NvramStore, SnapshotFile>> matching_stores(
    const std::vector<NvramStore>& stores, const std::vector<SnapshotFile>& files);

class NvramSwap {
  public:
    explicit NvramSwap(Engine& engine) : engine_(&engine) {}
    NvramSwap(Engine& engine, const VmRecord& vm, const std::vector<SnapshotFile>& files);
    [[nodiscard]] static NvramSwap from_plan(Engine& engine, const JsonReader& plan);
    [[nodiscard]] Json plan() const;
    [[nodiscard]] bool empty() const noexcept { return entries_.empty(); }

    /// QEMU's locks on the stores, and a look at the copies: InUse, CorruptImage, NotFound.
    async::Task<> lock();
    /// Where the present content is to be kept, beside a volume of the VM.
    void plan_former(const VmRecord& vm, const Uuid& beside);
    async::Task<> keep_former();
    /// Takes it away again.
    async::Task<> remove_former();
    [[nodiscard]] const std::vector<SnapshotFile>& former() const noexcept { return former_; }

    /// What was said of stores that could not be replaced.
    async::Task<std::vector<std::string>> replace();

  private:
    struct Entry {
        NvramStore store;
        SnapshotFile copy;
    };
    [[nodiscard]] std::string pool_path(const SnapshotFile& file) const;
    async::Task<> lock_one(std::size_t index);
    async::Task<> keep_one(std::size_t index);
    async::Task<> replace_one(std::size_t index);

    Engine* engine_;
    std::vector<Entry> entries_;
    std::vector<SnapshotFile> former_;  ///< as the entries, or empty
    std::string model_pool_;
    std::string model_;
    std::vector<qmp::ImageLock> locks_;
};

}  // namespace volchain::storage
