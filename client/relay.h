// SPDX-License-Identifier: MIT
//
// relay(): a connection at the standard input and output, for programs that run another one to get at what it talks to
// (libnbd's connect_command(), nbdfuse --command, ssh).
#pragma once

namespace volchain::client {

/// Copies what comes at `input` to `socket`, and what comes from there to `output`, until the other side has closed it.
/// Blocks; nothing else goes on meanwhile.
void relay(int input, int output, int socket);

}  // namespace volchain::client
