// SPDX-License-Identifier: MIT
//
// The operations on VM records: registered, changed, forgotten. None of them touches data.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "storage/engine.h"

namespace volchain::storage {

/// Looks at the VM now. Running where it runs, Unreachable where nobody can tell; `what` needs it down.
async::Task<> require_down(Engine& engine, Uuid vm, std::string_view what);

struct VmRequest {
    explicit VmRequest(std::string called) : name(std::move(called)) {}

    std::string name;
    std::optional<Uuid> id;
    std::string qmp_socket;
    std::string agent_socket;
    std::string config;
    std::string config_type;
    bool adopt = true;
    bool foreign_manager = false;
    std::vector<std::string> nvram;  ///< paths of the firmware's variable stores
    std::uint32_t owner_uid = 0;     ///< with whose rights they are looked at
};

/// Registers a VM. If it runs, its disks are adopted when this returns. Unreachable where another client
/// holds its monitor; Unsupported where another manager runs it, unless `foreign_manager`.
async::Task<Uuid> register_vm(Engine& engine, VmRequest request);

/// What update_vm() changes; none: stays.
struct VmUpdate {
    std::optional<std::string> name;
    std::optional<std::string> qmp_socket;
    std::optional<std::string> agent_socket;
    std::optional<std::vector<std::string>> nvram;
    std::uint32_t owner_uid = 0;  ///< as of VmRequest
};
async::Task<> update_vm(Engine& engine, Uuid vm, VmUpdate update);
async::Task<> set_vm_config(Engine& engine, Uuid vm, std::string config, std::string type);

/// Connects now if there is no connection, reads state and disks again, adopts what is new.
async::Task<> refresh_vm(Engine& engine, Uuid vm);

/// Forgets the VM; its disks float from then on. With snapshots only where `forget_snapshots`: their records
/// go, their data stays in the chains.
async::Task<> unregister_vm(Engine& engine, Uuid vm, bool forget_snapshots);

}  // namespace volchain::storage
