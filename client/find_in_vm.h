// SPDX-License-Identifier: MIT
//
// Snapshots and disks by the names that they have in one VM, where other VMs may have the same ones. What no name of that
// VM's is looked for everywhere.
#pragma once

#include <string>

#include "client/session.h"

namespace volchain::client {

[[nodiscard]] async::Task<bus::ObjectPath> find_snapshot_of(Session& session, Objects objects,
                                                            bus::ObjectPath vm, std::string what);
/// A disk may be called by its target, too.
[[nodiscard]] async::Task<bus::ObjectPath> find_disk_of(Session& session, Objects objects, bus::ObjectPath vm,
                                                        std::string what);

}  // namespace volchain::client
