// SPDX-License-Identifier: MIT
//
// volchainctl snapshot clone, volume clone: the rows of the table, which share most of their options.
#pragma once

#include "client/verb.h"

namespace volchain::client {

[[nodiscard]] Verb snapshot_clone_verb();
[[nodiscard]] Verb volume_clone_verb();

}  // namespace volchain::client
