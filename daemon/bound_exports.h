// SPDX-License-Identifier: MIT
//
// BoundExports: watches the callers whose exports and backups are to end when they leave the bus (bind-to-caller). The Publisher owns it,
// as it is told of every export.
#pragma once

#include <map>
#include <string>

#include "storage/engine.h"
#include "systemd/bus_connection.h"

namespace volchain::daemon {

/// A caller as an export's record has it: its unique name, which is never used again on this bus, and which bus it is.
[[nodiscard]] std::string caller_mark(const bus::Connection& bus, const std::string& unique_name);

class BoundExports {
  public:
    BoundExports(bus::Connection& bus, storage::Engine& engine) : bus_(bus), engine_(engine) {}
    BoundExports(const BoundExports&) = delete;
    BoundExports& operator=(const BoundExports&) = delete;

    /// The export, or the backup, came, changed or went.
    void follow(const storage::ObjectId& object);

  private:
    [[nodiscard]] std::string caller_of(const storage::ObjectId& object) const;
    void watch(const storage::ObjectId& object, const std::string& caller);
    void end(const storage::ObjectId& object, std::string why);

    bus::Connection& bus_;
    storage::Engine& engine_;
    std::map<Uuid, bus::Subscription> callers_;
};

}  // namespace volchain::daemon
