// SPDX-License-Identifier: MIT
#include "storage/snapshots/snapshot_files.h"

#include <algorithm>

#include "async/deadline.h"
#include "base/text.h"
#include "storage/images/doomed_files.h"
#include "storage/memory/memory_file.h"
#include "storage/records/snapshot_file.h"
#include "storage/vms/nvram.h"
#include "storage/volumes/new_image.h"

namespace volchain::storage {
namespace {

/// For all stores: the guest stands still, or is frozen.
constexpr auto copy_limit = std::chrono::seconds(2);

}  // namespace

SnapshotFiles::SnapshotFiles(Engine& engine, const VmRecord& vm, const Uuid& snapshot, const Uuid& beside,
                             bool memory)
    : engine_(engine), stores_(vm.nvram) {
    const Catalog& catalog = engine.catalog();
    const VolumeRecord& volume = catalog.volume(beside);
    model_pool_ = catalog.pool(volume.pool).path;
    model_ = volume.file;
    for (std::size_t index = 0; index < stores_.size(); ++index)
        files_.push_back({SnapshotFileKind::nvram, volume.pool,
                          nvram_file_name(volume.file, vm.name, snapshot, index), 0, stores_[index].path});
    if (memory)
        files_.push_back(
            {SnapshotFileKind::memory, volume.pool, memory_file_name(volume.file, vm.name, snapshot), 0, ""});
}

Json SnapshotFiles::plan() const {
    return json_of(files_);
}

SnapshotFiles SnapshotFiles::from_plan(Engine& engine, const JsonReader& plan) {
    SnapshotFiles files(engine);
    files.files_ = snapshot_files(plan);
    return files;
}

const SnapshotFile* SnapshotFiles::memory() const {
    const auto found = std::find_if(files_.begin(), files_.end(), [](const SnapshotFile& file) {
        return file.kind == SnapshotFileKind::memory;
    });
    return found == files_.end() ? nullptr : &*found;
}

std::string SnapshotFiles::pool_path(const SnapshotFile& file) const {
    return engine_.catalog().pool(file.pool).path;
}

async::Task<> SnapshotFiles::create() {
    for (std::size_t index = 0; index < files_.size(); ++index) co_await create_one(index);
}

async::Task<> SnapshotFiles::create_one(std::size_t index) {
    if (files_[index].kind == SnapshotFileKind::nvram) {
        auto look = [store = stores_[index]] { return store_bytes(store); };
        const std::uint64_t bytes = co_await engine_.files().run(std::move(look));
        files_[index].bytes = bytes;
    }
    auto make = [file = NewFile(pool_path(files_[index]), files_[index].file), pool = model_pool_,
                 model = model_] { make_image_file_like(file, pool, model); };
    co_await engine_.files().run(std::move(make));
}

async::Task<> SnapshotFiles::copy_stores() {
    const async::Deadline end = async::after(copy_limit);
    for (std::size_t index = 0; index < stores_.size(); ++index) {
        std::exception_ptr failure;
        co_await async::keep_failure(
            async::with_deadline(copy_one(index), end, "the copy of a variable store"), failure);
        if (!failure) continue;
        const Error error = to_error(failure);
        if (error.code() == ErrorCode::cancelled) throw error;
        files_[index].bytes = 0;  // it may still be filled, too late
        lost_.push_back(fmt::format("variable store {}: {}", quote(stores_[index].path), error.what()));
    }
}

/// Which is whole when it is as large as it is to be: it is written in one go.
async::Task<> SnapshotFiles::copy_one(std::size_t index) {
    auto copy = [store = stores_[index], pool = pool_path(files_[index]), file = files_[index].file,
                 bytes = files_[index].bytes] {
        const std::string content = read_store(store);
        if (content.size() != bytes)
            throw Error(ErrorCode::busy, "it had {} bytes before, and has {} now", bytes, content.size());
        fill_copy(pool, file, content);
    };
    co_await engine_.files().run(std::move(copy));
}

async::Task<std::vector<SnapshotFile>> SnapshotFiles::settle(bool with_memory) {
    std::vector<SnapshotFile> kept;
    for (std::size_t index = 0; index < files_.size(); ++index) {
        std::exception_ptr failure;
        bool whole = false;
        co_await async::keep_result(settle_one(index, with_memory), whole, failure);
        if (failure) {
            const Error error = to_error(failure);
            if (error.code() == ErrorCode::cancelled || files_[index].kind == SnapshotFileKind::memory)
                throw error;
            lost_.push_back(fmt::format("variable store {}: {}", quote(files_[index].store), error.what()));
        }
        if (whole)
            kept.push_back(files_[index]);
        else
            co_await remove_one(files_[index]);
    }
    for (const std::string& what : lost_) log().warning("not in the snapshot: {}", what);
    files_ = kept;
    co_return kept;
}

async::Task<bool> SnapshotFiles::settle_one(std::size_t index, bool with_memory) {
    const bool memory = files_[index].kind == SnapshotFileKind::memory;
    if (memory && !with_memory) co_return false;
    auto flush = [pool = pool_path(files_[index]), file = files_[index].file] {
        return flush_memory(pool, file);
    };
    const std::uint64_t bytes = co_await engine_.files().run(std::move(flush));
    if (memory) files_[index].bytes = bytes;
    co_return bytes != 0 && bytes == files_[index].bytes;
}

async::Task<> SnapshotFiles::remove() {
    for (std::size_t index = 0; index < files_.size(); ++index) co_await remove_one(files_[index]);
    files_.clear();
}

async::Task<> SnapshotFiles::remove_one(SnapshotFile file) {
    const std::string pool = pool_path(file);
    auto work = [gone = NewFile(pool, file.file)] { remove_image_file(gone); };
    std::exception_ptr failure;
    co_await async::keep_failure(engine_.files().run(std::move(work)), failure);
    if (!failure) co_return;
    const Error error = to_error(failure);
    if (error.code() == ErrorCode::cancelled) throw error;
    log().warning("{} stays behind: {}", quote(pool + "/" + file.file), error.what());
    co_await remember_unwanted(engine_, pool, file.file);
}

}  // namespace volchain::storage
