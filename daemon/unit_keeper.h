// SPDX-License-Identifier: MIT
//
// UnitKeeper: where systemd runs the daemon, processes that are to outlive it get units of their own: scopes for those that
// the daemon starts, services for those that need what the daemon's unit withholds from it and all its children. Each of
// these may do that one thing and little else.
#pragma once

#include "storage/process_keeper.h"
#include "systemd/bus_connection.h"

namespace volchain::daemon {

class UnitKeeper final : public storage::ProcessKeeper {
  public:
    explicit UnitKeeper(bus::Connection& bus) : bus_(bus) {}

    async::Task<> keep(pid_t process, std::string name, std::string what) override;
    async::Task<> start(storage::MountingProcess process) override;
    async::Task<> end(std::string name) override;
    async::Task<UniqueFd> listen(std::string name, storage::TcpAddress address) override;

  private:
    bus::Connection& bus_;
};

}  // namespace volchain::daemon
