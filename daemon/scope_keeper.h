// SPDX-License-Identifier: MIT
//
// ScopeKeeper: where systemd runs the daemon, processes that are to outlive it get scope units of their own.
#pragma once

#include "storage/process_keeper.h"
#include "systemd/bus_connection.h"

namespace volchain::daemon {

class ScopeKeeper final : public storage::ProcessKeeper {
  public:
    explicit ScopeKeeper(bus::Connection& bus) : bus_(bus) {}

    async::Task<> keep(pid_t process, std::string name, std::string what) override;

  private:
    bus::Connection& bus_;
};

}  // namespace volchain::daemon
