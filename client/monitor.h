// SPDX-License-Identifier: MIT
//
// monitor: prints what comes, goes and changes at the daemon, until ^C: a line each, with --json one JSON
// object each. It goes on while the daemon restarts.
#pragma once

#include "client/session.h"

namespace volchain::client {

async::Task<> monitor(Session& session, Arguments arguments);

}  // namespace volchain::client
