// SPDX-License-Identifier: MIT
//
// How a snapshot is taken: the options that `snapshot create`, `vm save-profile` and those of schedules share.
#pragma once

#include <vector>

#include "client/session.h"
#include "client/verb.h"

namespace volchain::client {

[[nodiscard]] std::vector<Option> snapshot_options();

/// "memory" and "no-memory", as "memory" of a method: what they mean differs from verb to verb.
MethodOptions& set_memory_option(MethodOptions& options, const Arguments& arguments);

/// Those that were given.
[[nodiscard]] async::Task<bus::Dict> read_snapshot_options(Session& session, Arguments arguments);

}  // namespace volchain::client
