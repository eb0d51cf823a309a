// SPDX-License-Identifier: MIT
//
// What `export create` and `volume export` have in common.
#pragma once

#include <vector>

#include "client/session.h"
#include "client/verb.h"

namespace volchain::client {

/// The options of the verbs, and of the methods, that export something.
[[nodiscard]] std::vector<Option> export_options();
async::Task<bus::Dict> export_request(Session& session, Arguments arguments);

}  // namespace volchain::client
