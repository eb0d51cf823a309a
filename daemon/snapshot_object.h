// SPDX-License-Identifier: MIT
//
// org.volchain1.Snapshot: the snapshots on the bus.
#pragma once

#include "daemon/objects.h"

namespace volchain::daemon {

/// Of Snapshot.Diff: disk, which of the two has it, its size in each, bytes that may differ, in how many extents.
using DiskDifference =
    std::tuple<bus::ObjectPath, std::string, std::uint64_t, std::uint64_t, std::uint64_t, std::uint64_t>;

class SnapshotObject {
  public:
    SnapshotObject(storage::Engine& engine, const bus::Connection& bus) : engine_(engine), bus_(bus) {}
    [[nodiscard]] bus::Interface<SnapshotObject> table();

    async::Task<bus::ObjectPath> preview(bus::Call call, Uuid id, bus::Options options);
    async::Task<bus::ObjectPath> revert(bus::Call call, Uuid id, bus::Options options);
    async::Task<bus::ObjectPath> clone(bus::Call call, Uuid id, std::string name, bus::Options options);
    async::Task<bus::ObjectPath> export_disk(bus::Call call, Uuid id, bus::ObjectPath disk,
                                             bus::Options options);
    async::Task<> set_metadata(bus::Call call, Uuid id, bus::Options options);
    async::Task<bus::ObjectPath> remove(bus::Call call, Uuid id, bus::Options options);
    async::Task<std::tuple<Bytes, std::string>> get_config(bus::Call call, Uuid id);
    async::Task<std::string> to_xml(bus::Call call, Uuid id);
    async::Task<std::vector<DiskDifference>> diff(bus::Call call, Uuid id, bus::ObjectPath other,
                                                  bus::Options options);
    async::Task<std::tuple<Extents, std::uint64_t>> diff_map(bus::Call call, Uuid id, bus::ObjectPath other,
                                                             bus::ObjectPath disk, std::uint64_t start);

    [[nodiscard]] std::string id(Uuid id) const { return id.str(); }
    [[nodiscard]] std::string name(Uuid id) const;
    [[nodiscard]] std::string description(Uuid id) const;
    [[nodiscard]] bus::ObjectPath vm(Uuid id) const;
    [[nodiscard]] bus::ObjectPath parent(Uuid id) const;
    [[nodiscard]] std::vector<bus::ObjectPath> children(Uuid id) const;
    [[nodiscard]] std::uint64_t created(Uuid id) const;
    [[nodiscard]] std::string vm_state(Uuid id) const;
    [[nodiscard]] std::string consistency(Uuid id) const;
    [[nodiscard]] std::string status(Uuid id) const;
    [[nodiscard]] std::vector<PathPair> disks(Uuid id) const;
    [[nodiscard]] std::vector<PathText> excluded(Uuid id) const;
    [[nodiscard]] std::uint64_t memory_bytes(Uuid id) const;
    [[nodiscard]] std::string memory_path(Uuid id) const;
    [[nodiscard]] std::vector<std::string> nvram(Uuid id) const;
    [[nodiscard]] std::string origin(Uuid id) const;
    [[nodiscard]] bus::ObjectPath schedule(Uuid id) const;
    [[nodiscard]] bool current(Uuid id) const;

  private:
    storage::Engine& engine_;
    const bus::Connection& bus_;
};

}  // namespace volchain::daemon
