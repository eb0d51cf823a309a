// SPDX-License-Identifier: MIT
//
// How a snapshot is taken: the options that `snapshot create`, `vm save-profile` and those of schedules share.
#pragma once

#include <vector>

#include "client/session.h"
#include "client/verb.h"

namespace volchain::client {

[[nodiscard]] std::vector<Option> snapshot_options();

/// Those that were given.
[[nodiscard]] async::Task<bus::Dict> read_snapshot_options(Session& session, Arguments arguments);

}  // namespace volchain::client
