// SPDX-License-Identifier: MIT
//
// What the daemon tells its service manager (sd_notify(3)), and the watchdog. All of it does nothing where
// there is no service manager, so callers need not ask.
#pragma once

#include <chrono>
#include <string>

#include "async/task.h"

namespace volchain::systemd {

/// Start-up is complete.
void notify_ready();
void notify_stopping();
/// One line for `systemctl status`.
void notify_status(const std::string& status);
/// Start-up or shutdown takes longer than TimeoutStartSec or TimeoutStopSec, and this is how much longer from
/// now on.
void notify_extend_timeout(std::chrono::microseconds more);

/// Tells the service manager twice in each WATCHDOG_USEC that we are alive. It runs on the event loop, so a
/// loop that hangs goes silent, and is restarted. Ends at once where no watchdog is set, else with its task
/// group.
async::Task<> run_watchdog();

}  // namespace volchain::systemd
