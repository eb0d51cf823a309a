// SPDX-License-Identifier: MIT
//
// Daemon: volchaind put together: bus, engine, objects; its start, its life, its end.
#pragma once

#include <memory>
#include <string>

#include "daemon/authorization.h"
#include "daemon/config.h"
#include "daemon/publisher.h"
#include "daemon/unit_keeper.h"
#include "storage/engine.h"
#include "systemd/bus_connection.h"
#include "systemd/log_control.h"

namespace volchain::daemon {

/// Where the daemon lives, as systemd's STATE_DIRECTORY, RUNTIME_DIRECTORY and CONFIGURATION_DIRECTORY say, or the usual
/// places of a system service.
struct Directories {
    std::string state;
    std::string runtime;
    std::string configuration;

    [[nodiscard]] static Directories from_environment();
};

class Daemon {
  public:
    Daemon(async::Executor executor, const Directories& directories, Config config,
           systemd::LogTarget log_target);
    Daemon(const Daemon&) = delete;
    Daemon& operator=(const Daemon&) = delete;

    /// Recovers, shows its objects, takes the bus name, and serves until SIGTERM or SIGINT, or until the bus is gone,
    /// which it throws (Unreachable).
    async::Task<> run();

  private:
    async::Task<> start();
    async::Task<> stop();
    async::Task<> wait_for_signal();

    async::Executor executor_;
    bus::Connection bus_;
    systemd::LogControl log_control_;
    storage::Engine engine_;
    UnitKeeper units_;
    Authorization authorization_;
    Publisher publisher_;
    async::TaskGroup tasks_;
    std::string bus_lost_;  ///< why; empty: it is there
    bool ending_ = false;
    async::Condition end_;
};

}  // namespace volchain::daemon
