// SPDX-License-Identifier: MIT
//
// org.volchain1.VM: the virtual machines on the bus.
#pragma once

#include <map>
#include <optional>

#include "daemon/objects.h"
#include "storage/backups/push_backup.h"

namespace volchain::daemon {

/// (name, time, state)
using CheckpointRow = std::tuple<std::string, std::uint64_t, std::string>;
/// (name, disk, why)
using CheckpointFlaw = std::tuple<std::string, bus::ObjectPath, std::string>;

class VmObject {
  public:
    VmObject(storage::Engine& engine, const bus::Connection& bus) : engine_(engine), bus_(bus) {}
    [[nodiscard]] bus::Interface<VmObject> table();

    async::Task<bus::ObjectPath> create_snapshot(bus::Call call, Uuid id, std::string name,
                                                 bus::Options options);
    async::Task<bus::ObjectPath> preview(bus::Call call, Uuid id,
                                         std::map<bus::ObjectPath, bus::ObjectPath> disks,
                                         bus::Options options);
    async::Task<bus::ObjectPath> commit_preview(bus::Call call, Uuid id, bus::Options options);
    async::Task<bus::ObjectPath> undo_preview(bus::Call call, Uuid id, bus::Options options);
    async::Task<bus::ObjectPath> start_backup(bus::Call call, Uuid id, bus::Options options);
    async::Task<bus::ObjectPath> delete_checkpoint(bus::Call call, Uuid id, std::string name,
                                                   bus::Options options);
    async::Task<std::vector<std::string>> launch_arguments(bus::Call call, Uuid id, bus::Options options);
    async::Task<std::tuple<Bytes, std::string>> get_config(bus::Call call, Uuid id);
    async::Task<> set_config(bus::Call call, Uuid id, Bytes config, std::string type);
    async::Task<> save_profile(bus::Call call, Uuid id, std::string name, bus::Options options);
    async::Task<> delete_profile(bus::Call call, Uuid id, std::string name);
    async::Task<> update(bus::Call call, Uuid id, bus::Options options);
    async::Task<bus::ObjectPath> import_snapshot_xml(bus::Call call, Uuid id, std::string xml,
                                                     bus::Options options);
    async::Task<> refresh(bus::Call call, Uuid id);
    async::Task<> unregister(bus::Call call, Uuid id, bus::Options options);

    [[nodiscard]] std::string id(Uuid id) const { return id.str(); }
    [[nodiscard]] std::string name(Uuid id) const;
    [[nodiscard]] std::string state(Uuid id) const;
    [[nodiscard]] std::string agent_state(Uuid id) const;
    [[nodiscard]] std::string qmp_socket(Uuid id) const;
    [[nodiscard]] std::string agent_socket(Uuid id) const;
    [[nodiscard]] std::vector<bus::ObjectPath> disks(Uuid id) const;
    [[nodiscard]] std::vector<bus::ObjectPath> snapshots(Uuid id) const;
    [[nodiscard]] bus::ObjectPath current_snapshot(Uuid id) const;
    [[nodiscard]] bus::ObjectPath preview_of(Uuid id) const;
    [[nodiscard]] bus::ObjectPath resumes_from(Uuid id) const;
    [[nodiscard]] std::vector<std::string> nvram(Uuid id) const;
    [[nodiscard]] bus::ObjectPath job(Uuid id) const;
    [[nodiscard]] std::string config_type(Uuid id) const;
    [[nodiscard]] std::vector<CheckpointRow> checkpoints(Uuid id) const;
    [[nodiscard]] std::vector<CheckpointFlaw> checkpoint_problems(Uuid id) const;
    [[nodiscard]] std::map<std::string, bus::Dict> profiles(Uuid id) const;
    [[nodiscard]] std::vector<bus::ObjectPath> schedules(Uuid id) const;
    [[nodiscard]] std::vector<TextPair> unmanaged(Uuid id) const;

  private:
    [[nodiscard]] std::optional<storage::PushTarget> take_push_target(bus::Options& options) const;

    storage::Engine& engine_;
    const bus::Connection& bus_;
};

}  // namespace volchain::daemon
