// SPDX-License-Identifier: MIT
//
// What the tests of lib/storage share: records that belong together, a catalog and an engine on a database of
// their own, and the errors that calls throw. Images and programs of QEMU come from the tests of qcow2, QEMUs
// and fake peers from those of qmp.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "storage/engine.h"
#include "storage/records/catalog.h"
#include "support/run_task.h"
#include "unit/qcow2/support.h"
#include "unit/qmp/support.h"

namespace volchain::storage {

using async::Task;
using qcow2::error_of;
using qcow2::run_well;
using qmp::soon;
using qmp::TemporaryDirectory;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

constexpr std::uint64_t mib = std::uint64_t{1} << 20;

/// The test fails unless `work` throws an Error with this code, and each of `parts` in its text.
void expect_error(ErrorCode code, const std::vector<std::string>& parts, const std::function<void()>& work);
/// The same for a task.
Task<> expect_failure(Task<> operation, ErrorCode code, std::string part);
/// For tasks with a result, which is dropped.
template <typename T>
Task<> dropping(Task<T> operation) {
    (void)co_await std::move(operation);
}

/// A database and its records, with nothing that runs.
class TestCatalog {
  public:
    TestCatalog() { open(); }

    [[nodiscard]] Catalog& operator*() { return *catalog_; }
    [[nodiscard]] Catalog* operator->() { return catalog_.get(); }
    [[nodiscard]] std::string path() const { return directory_ / "volchain.db"; }
    [[nodiscard]] const TemporaryDirectory& directory() const { return directory_; }

    void commit(Changes changes, Durability durability = Durability::process);
    /// Closes the database and reads it again, as a restarted daemon does.
    void reopen();

  private:
    void open() { catalog_ = std::make_unique<Catalog>(path()); }

    TemporaryDirectory directory_;
    std::unique_ptr<Catalog> catalog_;
};

/// Records of every kind that refer to each other: a pool, a VM with a disk of two volumes, a snapshot of it
/// that left another disk out, a job. Every member has a value that is not its default.
struct Sample {
    explicit Sample(const std::string& pool_path = "/pool");

    PoolRecord pool;
    VmRecord vm;
    DiskRecord disk;
    VolumeRecord base;
    VolumeRecord active;
    SnapshotRecord snapshot;
    JobRecord job;

    /// All of them; but for the pool, each one's references come later.
    [[nodiscard]] Changes changes() const;
};

[[nodiscard]] VolumeRecord new_volume(const Uuid& disk, const Uuid& pool, std::string file,
                                      VolumeFormat format = VolumeFormat::qcow2);
/// A floating disk of that one volume.
[[nodiscard]] DiskRecord new_disk(const VolumeRecord& active, std::string name);
/// As the reader of headers would say it of an image over `backing` (a path; empty: none).
[[nodiscard]] VolumeFacts facts_over(const std::string& backing);

/// While it lives no file can grow beyond `bytes`: writes fail as on a medium that is out of order.
class FileSizeLimit {
  public:
    explicit FileSizeLimit(std::uint64_t bytes);
    FileSizeLimit(const FileSizeLimit&) = delete;
    FileSizeLimit& operator=(const FileSizeLimit&) = delete;
    ~FileSizeLimit();
};

/// Settings with which nothing is waited for in vain for long.
[[nodiscard]] Settings quick_settings();

/// An engine with a state directory of its own, for tests that are coroutines:
///     TestEngine test(co_await asio::this_coro::executor);
///     co_await test->start(); ... co_await test->stop();
class TestEngine {
  public:
    explicit TestEngine(async::Executor executor, Settings settings = quick_settings());

    [[nodiscard]] Engine& operator*() { return *engine_; }
    [[nodiscard]] Engine* operator->() { return engine_.get(); }
    [[nodiscard]] const TemporaryDirectory& directory() const { return directory_; }
    /// Its end in order, and a new one on the same state.
    Task<> restart();
    /// The end of a job that has to succeed.
    Task<Json> finish(Uuid job);
    /// The error of a job that has to fail.
    Task<Error> failure(Uuid job);

  private:
    Task<JobRecord> ended(Uuid job);

    TemporaryDirectory directory_;
    async::Executor executor_;
    Settings settings_;
    std::unique_ptr<Engine> engine_;
};

}  // namespace volchain::storage
