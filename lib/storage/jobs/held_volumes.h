// SPDX-License-Identifier: MIT
//
// Which volumes exports hold: what an export shows, and all that it stands on, neither goes nor is written to as long as
// the export exists. Operations that do such things ask here before they begin, and whatever decides later which volume
// is next asks again.
#pragma once

#include "storage/records/catalog.h"

namespace volchain::storage {

/// The export that holds a volume; null where none does.
[[nodiscard]] const ExportRecord* export_holding(const Catalog& catalog, const Uuid& volume);

/// Throws Busy, naming the export, where one holds the volume.
void check_not_exported(const Catalog& catalog, const Uuid& volume);

/// The same for a snapshot that goes: an export of it says which snapshot it shows.
void check_snapshot_not_exported(const Catalog& catalog, const Uuid& snapshot);

}  // namespace volchain::storage
