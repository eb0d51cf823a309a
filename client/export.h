// SPDX-License-Identifier: MIT
//
// What `export create`, `volume export` and `backup start` have in common.
#pragma once

#include <vector>

#include "client/session.h"
#include "client/verb.h"

namespace volchain::client {

/// The options of the verbs, and of the methods, that export something.
[[nodiscard]] std::vector<Option> export_options();
/// The user that a name or a number means; UsageError where there is none.
[[nodiscard]] std::uint32_t user_of(const std::string& text);
async::Task<bus::Dict> export_request(Session& session, Arguments arguments);

}  // namespace volchain::client
