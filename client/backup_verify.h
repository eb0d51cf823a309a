// SPDX-License-Identifier: MIT
//
// volchainctl backup verify: whether the moments in a directory of backups can be restored: the catalogue is held against the
// files, their headers, their tables, and every block that they hold. Each file is read once, whatever stands on it: what the
// files hold, and the digests of all blocks of a moment, make its content.
#pragma once

#include "client/session.h"

namespace volchain::client {

async::Task<> verify_backups(Session& session, Arguments arguments);
/// volchainctl backup list, of a directory.
async::Task<> list_moments(Session& session, std::string path);

}  // namespace volchain::client
