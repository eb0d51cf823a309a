// SPDX-License-Identifier: MIT
//
// The schema of the state database and its migrations.
#pragma once

#include "storage/records/database.h"

namespace volchain::storage {

/// Brings the schema to this version of the program, each migration in one transaction. PRAGMA user_version
/// counts those that were made. Unsupported, and nothing is touched, where a newer program has made more.
void migrate(Database& database);

}  // namespace volchain::storage
