// SPDX-License-Identifier: MIT
//
// How a socket that listens on the host's network comes to a daemon whose unit keeps it from that network: a process that
// does nothing else (volchain-listener) makes it, and hands it over on its standard input. Nothing here waits.
#pragma once

#include <string>
#include <utility>

#include "base/unique_fd.h"
#include "storage/exports/export_listener.h"

namespace volchain::daemon {

/// The daemon's end and that of the process.
[[nodiscard]] std::pair<UniqueFd, UniqueFd> listener_connection();

/// Listens on `address` and sends the socket, or why there is none.
void hand_over_listener(int connection, const std::string& address);

/// What was sent. Throws what the process says against it; Internal where it said nothing.
[[nodiscard]] UniqueFd take_listener(int connection, const storage::TcpAddress& address);

}  // namespace volchain::daemon
