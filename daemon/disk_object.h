// SPDX-License-Identifier: MIT
//
// org.volchain1.Disk: the disks on the bus.
#pragma once

#include "daemon/objects.h"

namespace volchain::daemon {

class DiskObject {
  public:
    explicit DiskObject(storage::Engine& engine) : engine_(engine) {}
    [[nodiscard]] bus::Interface<DiskObject> table();

    async::Task<bus::ObjectPath> create_overlay(bus::Call call, Uuid id, bus::Options options);
    async::Task<bus::ObjectPath> check(bus::Call call, Uuid id, bus::Options options);
    async::Task<bus::ObjectPath> attach(bus::Call call, Uuid id, bus::ObjectPath vm, std::string target,
                                        bus::Options options);
    async::Task<bus::ObjectPath> flatten(bus::Call call, Uuid id, bus::Options options);
    async::Task<bus::ObjectPath> detach(bus::Call call, Uuid id, bus::Options options);
    async::Task<bus::ObjectPath> create_snapshot(bus::Call call, Uuid id, std::string name,
                                                 bus::Options options);
    async::Task<bus::ObjectPath> move(bus::Call call, Uuid id, bus::ObjectPath pool, bus::Options options);
    async::Task<bus::ObjectPath> resize(bus::Call call, Uuid id, std::uint64_t size, bus::Options options);
    async::Task<bus::ObjectPath> delete_disk(bus::Call call, Uuid id, bus::Options options);

    [[nodiscard]] std::string id(Uuid id) const { return id.str(); }
    [[nodiscard]] std::string name(Uuid id) const;
    [[nodiscard]] bus::ObjectPath pool(Uuid id) const;
    [[nodiscard]] bus::ObjectPath vm(Uuid id) const;
    [[nodiscard]] std::string target(Uuid id) const;
    [[nodiscard]] bus::ObjectPath active(Uuid id) const;
    [[nodiscard]] std::string active_path(Uuid id) const;
    [[nodiscard]] bus::ObjectPath former(Uuid id) const;
    [[nodiscard]] std::vector<bus::ObjectPath> volumes(Uuid id) const;
    [[nodiscard]] std::uint64_t size(Uuid id) const;
    [[nodiscard]] std::string state(Uuid id) const;
    [[nodiscard]] bool shareable(Uuid id) const;

  private:
    storage::Engine& engine_;
};

}  // namespace volchain::daemon
