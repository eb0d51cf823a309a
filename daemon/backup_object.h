// SPDX-License-Identifier: MIT
//
// org.volchain1.Backup: the backups and restores on the bus. VM.StartBackup (vm_object.h) and Manager.RestoreDisk
// (manager_object.h) make them.
#pragma once

#include "daemon/objects.h"

namespace volchain::daemon {

/// (disk, full or incremental, why)
using BackedUpDisk = std::tuple<bus::ObjectPath, std::string, std::string>;

class BackupObject {
  public:
    explicit BackupObject(storage::Engine& engine) : engine_(engine) {}
    [[nodiscard]] bus::Interface<BackupObject> table();

    async::Task<bus::ObjectPath> finish(bus::Call call, Uuid id, bus::Options options);
    async::Task<bus::ObjectPath> abort(bus::Call call, Uuid id);
    async::Task<std::tuple<Bytes, std::string>> get_config(bus::Call call, Uuid id);

    [[nodiscard]] std::string id(Uuid id) const { return id.str(); }
    [[nodiscard]] bus::ObjectPath vm(Uuid id) const;
    [[nodiscard]] std::string kind(Uuid id) const;
    [[nodiscard]] std::string source(Uuid id) const;
    [[nodiscard]] bus::ObjectPath snapshot(Uuid id) const;
    [[nodiscard]] std::string mode(Uuid id) const;
    [[nodiscard]] std::string state(Uuid id) const;
    [[nodiscard]] std::string problem(Uuid id) const;
    [[nodiscard]] std::string consistency(Uuid id) const;
    [[nodiscard]] std::string checkpoint(Uuid id) const;
    [[nodiscard]] std::string since(Uuid id) const;
    [[nodiscard]] std::vector<bus::ObjectPath> exports(Uuid id) const;
    [[nodiscard]] std::vector<BackedUpDisk> disks(Uuid id) const;
    [[nodiscard]] std::string disk_name(Uuid id) const;
    [[nodiscard]] std::uint32_t owner(Uuid id) const;
    [[nodiscard]] std::uint64_t created(Uuid id) const;
    [[nodiscard]] std::uint64_t moment(Uuid id) const;

  private:
    [[nodiscard]] bool restores(const Uuid& id) const { return record(id).restored.has_value(); }
    /// In push mode nothing is exported.
    [[nodiscard]] bool pushed(const Uuid& id) const {
        return !restores(id) && record(id).disks.front().exported.nil();
    }
    [[nodiscard]] const storage::BackupRecord& record(const Uuid& id) const {
        return engine_.catalog().backup(id);
    }

    storage::Engine& engine_;
};

}  // namespace volchain::daemon
