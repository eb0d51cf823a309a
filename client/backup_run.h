// SPDX-License-Identifier: MIT
//
// volchainctl backup run: a whole backup of a VM, in a directory that is kept as a chain of images with a catalogue
// (backup_directory.h): a moment is begun, copied, compared, and finished, and only then it is one. Whatever ends it before,
// the directory holds what it held; what was begun is removed, by the next run where this one could not.
#pragma once

#include <vector>

#include "client/session.h"

namespace volchain::client {

async::Task<> run_backup(Session& session, Arguments arguments);
[[nodiscard]] std::vector<Option> run_backup_options();

/// What becomes of the moments where so many are to be kept: the newest ones, and all that those stand on.
struct BackupCatalog;
[[nodiscard]] BackupCatalog with_newest(const BackupCatalog& catalog, std::size_t count);

/// The moments whose checkpoints are still of use: the last one, for the next increment, and the last one of which all disks
/// are full, for a differential one.
[[nodiscard]] std::vector<std::string> useful_checkpoints(const BackupCatalog& catalog);

}  // namespace volchain::client
