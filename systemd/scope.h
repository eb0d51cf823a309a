// SPDX-License-Identifier: MIT
//
// Scope units of systemd: a process that we started is put into a control group of its own, so that it goes on when the
// service that we are is stopped or restarted (systemd.scope(5), org.freedesktop.systemd1(5)).
#pragma once

#include <sys/types.h>

#include <string>

#include "async/task.h"
#include "systemd/bus_connection.h"

namespace volchain::systemd {

/// Whether systemd runs this process as a service, and so ends all that it started together with it.
[[nodiscard]] bool runs_as_service();

/// Returns when the process is in the new unit `name`.scope, which goes when the process has ended. Throws what systemd
/// says against it.
async::Task<> move_to_scope(bus::Connection& bus, pid_t process, std::string name, std::string description,
                            async::Deadline deadline);

}  // namespace volchain::systemd
