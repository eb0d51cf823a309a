// SPDX-License-Identifier: MIT
//
// Finder: an object by what a person calls it: its id, an unambiguous beginning of the id, its name, or (volume, disk)
// its path.
#pragma once

#include <string>

#include "storage/records/catalog.h"

namespace volchain::daemon {

/// NotFound, or InvalidArgument where several objects are meant (the message lists them).
[[nodiscard]] Uuid find_object(const storage::Catalog& catalog, storage::ObjectKind kind,
                               const std::string& what);

}  // namespace volchain::daemon
