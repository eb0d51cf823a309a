// SPDX-License-Identifier: MIT
#include "storage/previews/nvram_swap.h"

#include <algorithm>

#include "base/text.h"
#include "storage/memory/memory_file.h"
#include "storage/records/snapshot_file.h"
#include "storage/vms/nvram.h"
#include "storage/volumes/new_image.h"

namespace volchain::storage {

std::vector<std::pair<NvramStore, SnapshotFile>> matching_stores(const std::vector<NvramStore>& stores,
                                                                 const std::vector<SnapshotFile>& files) {
    std::vector<SnapshotFile> copies;
    for (const SnapshotFile& file : files)
        if (file.kind == SnapshotFileKind::nvram) copies.push_back(file);
    std::vector<std::pair<NvramStore, SnapshotFile>> pairs;
    for (const NvramStore& store : stores)
        for (const SnapshotFile& copy : copies)
            if (copy.store == store.path) pairs.emplace_back(store, copy);
    if (!pairs.empty() || copies.size() != stores.size()) return pairs;
    for (std::size_t index = 0; index < stores.size(); ++index)
        pairs.emplace_back(stores[index], copies[index]);
    return pairs;
}

NvramSwap::NvramSwap(Engine& engine, const VmRecord& vm, const std::vector<SnapshotFile>& files)
    : engine_(&engine) {
    for (auto& [store, copy] : matching_stores(vm.nvram, files)) entries_.push_back({store, copy});
}

Json NvramSwap::plan() const {
    std::vector<NvramStore> stores;
    std::vector<SnapshotFile> copies;
    for (const Entry& entry : entries_) {
        stores.push_back(entry.store);
        copies.push_back(entry.copy);
    }
    Json plan;
    plan["stores"] = json_of(stores);
    plan["copies"] = json_of(copies);
    plan["former"] = json_of(former_);
    return plan;
}

NvramSwap NvramSwap::from_plan(Engine& engine, const JsonReader& plan) {
    NvramSwap swap(engine);
    const std::vector<NvramStore> stores = nvram_stores(plan.at("stores"));
    const std::vector<SnapshotFile> copies = snapshot_files(plan.at("copies"));
    for (std::size_t index = 0; index < std::min(stores.size(), copies.size()); ++index)
        swap.entries_.push_back({stores[index], copies[index]});
    swap.former_ = snapshot_files(plan.at("former"));
    return swap;
}

std::string NvramSwap::pool_path(const SnapshotFile& file) const {
    return engine_->catalog().pool(file.pool).path;
}

// --- before the switch -----------------------------------------------------------------------------------

async::Task<> NvramSwap::lock() {
    for (std::size_t index = 0; index < entries_.size(); ++index) co_await lock_one(index);
}

async::Task<> NvramSwap::lock_one(std::size_t index) {
    auto work = [store = entries_[index].store, copy = entries_[index].copy,
                 pool = pool_path(entries_[index].copy)] {
        (void)read_copy(pool, copy);
        return lock_store(store);
    };
    auto lock = co_await engine_->files().run(std::move(work));
    if (lock) locks_.push_back(*std::move(lock));
}

void NvramSwap::plan_former(const VmRecord& vm, const Uuid& beside) {
    const VolumeRecord& volume = engine_->catalog().volume(beside);
    model_pool_ = engine_->catalog().pool(volume.pool).path;
    model_ = volume.file;
    const Uuid id = Uuid::make();
    for (std::size_t index = 0; index < entries_.size(); ++index)
        former_.push_back({SnapshotFileKind::nvram, volume.pool,
                           nvram_file_name(volume.file, vm.name, id, index), 0, entries_[index].store.path});
}

async::Task<> NvramSwap::keep_former() {
    for (std::size_t index = 0; index < former_.size(); ++index) co_await keep_one(index);
    // A store that is not there has nothing to be kept.
    std::erase_if(former_, [](const SnapshotFile& file) { return file.bytes == 0; });
}

async::Task<> NvramSwap::keep_one(std::size_t index) {
    auto work = [store = entries_[index].store,
                 target = NewFile(pool_path(former_[index]), former_[index].file), pool = model_pool_,
                 model = model_]() -> std::uint64_t {
        std::string content;
        try {
            content = read_store(store);
        } catch (const Error& error) {
            if (error.code() != ErrorCode::not_found) throw;
            return 0;
        }
        make_image_file_like(target, pool, model);
        fill_copy(target.pool, target.file, content);
        return flush_memory(target.pool, target.file);
    };
    const std::uint64_t bytes = co_await engine_->files().run(std::move(work));
    former_[index].bytes = bytes;
}

async::Task<> NvramSwap::remove_former() {
    for (const SnapshotFile& file : former_) {
        auto work = [target = NewFile(pool_path(file), file.file)] { remove_image_file(target); };
        co_await engine_->files().run(std::move(work));
    }
}

// --- after the switch ------------------------------------------------------------------------------------

async::Task<std::vector<std::string>> NvramSwap::replace() {
    std::vector<std::string> problems;
    for (std::size_t index = 0; index < entries_.size(); ++index) {
        std::exception_ptr failure;
        co_await async::keep_failure(replace_one(index), failure);
        if (!failure) continue;
        const Error error = to_error(failure);
        if (error.code() == ErrorCode::cancelled) throw error;  // shutting down: recovery goes on with it
        problems.push_back(fmt::format("variable store {} was not replaced by {}: {}",
                                       quote(entries_[index].store.path), quote(entries_[index].copy.file),
                                       error.what()));
        log().warning("{}", problems.back());
    }
    locks_.clear();
    co_return problems;
}

async::Task<> NvramSwap::replace_one(std::size_t index) {
    auto work = [store = entries_[index].store, copy = entries_[index].copy,
                 pool = pool_path(entries_[index].copy)] {
        replace_store(store, read_copy(pool, copy), pool, copy);
    };
    co_await engine_->files().run(std::move(work));
}

}  // namespace volchain::storage
