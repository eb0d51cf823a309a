// SPDX-License-Identifier: MIT
//
// org.volchain1.Manager at /org/volchain1: makes pools and VMs, begins restores, finds objects, tells of finished jobs.
#pragma once

#include "daemon/objects.h"

namespace volchain::daemon {

class ManagerObject {
  public:
    ManagerObject(storage::Engine& engine, const bus::Connection& bus) : engine_(engine), bus_(bus) {}
    [[nodiscard]] bus::Interface<ManagerObject> table();

    async::Task<bus::ObjectPath> create_pool(bus::Call call, std::string name, std::string path,
                                             bus::Options options);
    async::Task<bus::ObjectPath> register_vm(bus::Call call, std::string name, bus::Options options);
    async::Task<bus::ObjectPath> create_schedule(bus::Call call, std::string name, bus::ObjectPath vm,
                                                 std::string calendar, bus::Options options);
    async::Task<bus::ObjectPath> restore_disk(bus::Call call, std::string name, bus::ObjectPath pool,
                                              std::uint64_t size, bus::Options options);
    async::Task<bus::ObjectPath> import_manifest(bus::Call call, std::string path, bus::Options options);
    async::Task<bus::ObjectPath> find(bus::Call call, std::string kind, std::string what);

    [[nodiscard]] std::string version() const;
    [[nodiscard]] std::string qemu_version() const { return qemu_version_; }
    [[nodiscard]] std::vector<std::string> features() const;

    /// Asks the storage daemon which QEMU this is.
    async::Task<> probe_qemu();

  private:
    storage::Engine& engine_;
    const bus::Connection& bus_;
    std::string qemu_version_;
};

}  // namespace volchain::daemon
