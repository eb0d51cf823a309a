// SPDX-License-Identifier: MIT
//
// The schema of the state database and its migrations.
#pragma once

#include "storage/database.h"

namespace volchain::storage {

/// Brings the schema to this version of the program, in one transaction. PRAGMA user_version counts the
/// migrations that were made.
void migrate(Database& database);

}  // namespace volchain::storage
