// SPDX-License-Identifier: MIT
//
// org.volchain1.Export: the exports on the bus; and the methods of snapshots and volumes that make them.
#pragma once

#include "daemon/objects.h"
#include "storage/exports/export_volume.h"

namespace volchain::daemon {

/// What the options of an Export method say. `bus`: where the caller is known by its name.
[[nodiscard]] async::Task<storage::ExportRequest> take_export_request(const bus::Connection& bus,
                                                                      bus::Call call, bus::Options options);

/// Those of them that say for whom, where and how long something is shown over NBD.
[[nodiscard]] async::Task<storage::ExportRequest> take_nbd_request(const bus::Connection& bus, bus::Call call,
                                                                   bus::Options& options);

class ExportObject {
  public:
    explicit ExportObject(storage::Engine& engine) : engine_(engine) {}
    [[nodiscard]] bus::Interface<ExportObject> table();

    async::Task<bus::UnixFd> open(bus::Call call, Uuid id);
    async::Task<> renew(bus::Call call, Uuid id, std::uint64_t ttl);
    async::Task<bus::ObjectPath> stop(bus::Call call, Uuid id, bus::Options options);

    [[nodiscard]] std::string id(Uuid id) const { return id.str(); }
    [[nodiscard]] std::string kind(Uuid id) const;
    [[nodiscard]] std::string state(Uuid id) const;
    [[nodiscard]] bus::ObjectPath volume(Uuid id) const;
    [[nodiscard]] bus::ObjectPath disk(Uuid id) const;
    [[nodiscard]] bus::ObjectPath snapshot(Uuid id) const;
    [[nodiscard]] bool writable(Uuid id) const;
    [[nodiscard]] std::string uri(Uuid id) const;
    [[nodiscard]] std::string path(Uuid id) const;
    [[nodiscard]] std::string bitmap(Uuid id) const;
    [[nodiscard]] bus::ObjectPath backup(Uuid id) const;
    [[nodiscard]] bus::ObjectPath appliance(Uuid id) const;
    [[nodiscard]] std::string device(Uuid id) const;
    [[nodiscard]] std::uint32_t owner(Uuid id) const;
    [[nodiscard]] std::uint64_t expires(Uuid id) const;
    [[nodiscard]] std::uint32_t connections(Uuid id) const;

  private:
    [[nodiscard]] const storage::ExportRecord& record(const Uuid& id) const {
        return engine_.catalog().exported(id);
    }

    storage::Engine& engine_;
};

}  // namespace volchain::daemon
