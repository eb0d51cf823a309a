// SPDX-License-Identifier: MIT
//
// Documents (configurations of VMs, snapshots as XML), read from a file or stdin and printed as they are.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "client/session.h"

namespace volchain::client {

using Bytes = std::vector<std::uint8_t>;

/// The content of a file, or of stdin for "-". Throws Error where it is larger than the limit.
[[nodiscard]] std::string read_text(const std::string& path, std::size_t limit);
/// A configuration: no more than the daemon takes (4 MiB).
[[nodiscard]] Bytes read_document(const std::string& path);

/// Prints what GetConfig of the object answers; with JSON its type, too.
async::Task<> print_config(Session& session, bus::ObjectPath object);

}  // namespace volchain::client
