// SPDX-License-Identifier: MIT
//
// Configuration documents of VMs, read from a file or stdin and printed as they are.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "client/session.h"

namespace volchain::client {

using Bytes = std::vector<std::uint8_t>;

/// The content of a file, or of stdin for "-"; no more than the daemon takes (4 MiB). Throws Error.
[[nodiscard]] Bytes read_document(const std::string& path);

/// Prints what GetConfig of the object answers; with JSON its type, too.
async::Task<> print_config(Session& session, bus::ObjectPath object);

}  // namespace volchain::client
