// SPDX-License-Identifier: MIT
//
// LaunchArguments: what QEMU has to be started with so that a VM has its disks as they are now. Whoever runs the VM
// adds it to his own arguments; nothing is changed here.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "storage/engine.h"

namespace volchain::storage {

/// The name of the node that a device of the guest is put on: of the same disk always the same, whatever its active
/// volume is. Also the id of the device that launch_arguments() adds.
[[nodiscard]] std::string root_node_name(const Uuid& disk);

/// For each disk of the VM, in the order of their targets and names: "-blockdev" and a JSON object for each layer of
/// its chain, from the bottom up, with its format and its backing node, so that QEMU believes no header. Where `device`
/// (the name of a QEMU device model) is not empty: also "-device" and that with its node, id and serial (the target).
/// Where the VM goes on from the memory of a snapshot (resume_state.h), "-incoming defer" comes last; `memory`: false leaves
/// it out, true throws InvalidArgument where it cannot be.
/// BrokenChain where a chain is not whole, InvalidArgument where `device` is not the name of a model.
async::Task<std::vector<std::string>> launch_arguments(Engine& engine, Uuid vm, std::string device,
                                                       std::optional<bool> memory);

}  // namespace volchain::storage
