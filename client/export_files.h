// SPDX-License-Identifier: MIT
//
// volchainctl export files: what files a disk had at a snapshot, and copies of them, by way of an export that lasts as long
// as the command and of guestfish (guestfish.h).
#pragma once

#include <vector>

#include "client/session.h"
#include "client/verb.h"

namespace volchain::client {

async::Task<> export_files(Session& session, Arguments arguments);
[[nodiscard]] std::vector<Option> export_files_options();

}  // namespace volchain::client
