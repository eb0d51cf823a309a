// SPDX-License-Identifier: MIT
//
// Store: the records on disk (SQLite in the state directory). Loaded once at start; after that only written:
// each Changes is one transaction. One thread of its own does the writing, in the order of the calls. The
// Catalog owns it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "async/workers.h"
#include "storage/records/changes.h"
#include "storage/records/database.h"

namespace volchain::storage {

/// Everything in the database.
struct Records {
    std::vector<PoolRecord> pools;
    std::vector<DiskRecord> disks;
    std::vector<VolumeRecord> volumes;
    std::vector<VmRecord> vms;
    std::vector<SnapshotRecord> snapshots;
    std::vector<ExportRecord> exports;
    std::vector<BackupRecord> backups;
    std::vector<ScheduleRecord> schedules;
    std::vector<JobRecord> jobs;
    std::vector<Frozen> frozen;
    std::vector<Uuid> stale_manifests;
    std::vector<UnwantedFile> unwanted_files;
};

class Store {
  public:
    /// Opens the database, creates or migrates its schema. Blocking; at start only. Error Unsupported where
    /// the database was written by a newer volchain.
    explicit Store(const std::string& path);
    ~Store();

    [[nodiscard]] Records load();

    /// Writes all of it or nothing.
    async::Task<> commit(Changes changes, Durability durability);

  private:
    std::unique_ptr<Database> database_;
    async::Workers worker_{1};
};

}  // namespace volchain::storage
