// SPDX-License-Identifier: MIT
//
// ExportRequest: what is asked for when something is to be shown to others: a volume to a backup appliance (export_volume.h), or an
// image in the making to who restores a disk (restore_disk.h).
#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "storage/engine.h"

namespace volchain::storage {

/// A class with a constructor, so that it may be handed to coroutines.
struct ExportRequest {
    explicit ExportRequest(std::uint32_t uid) : owner_uid(uid) {}

    std::uint32_t owner_uid;
    ExportKind kind = ExportKind::nbd;
    bool writable = false;
    std::optional<std::chrono::microseconds> time_to_live{};  ///< none: until it is stopped
    std::optional<std::uint32_t> allowed_uid{};  ///< who may connect, where that is not the owner
    std::string caller;                          ///< a name on the bus whose vanishing ends it; empty: none
    // of nbd
    std::string since;  ///< a checkpoint: what changed goes along as a dirty bitmap; empty: none
    std::uint32_t max_connections = 0;  ///< 0: QEMU's default
    std::string address;                ///< of TCP; empty: a Unix socket
    std::string tls_credentials;        ///< directory
    // of device
    Uuid appliance;
    std::string serial;
};

/// InvalidArgument where the options do not go together, Unsupported where this daemon cannot do it.
void check_export_request(const Engine& engine, const ExportRequest& request);

/// What the request says of the record, but for what is shown.
[[nodiscard]] ExportRecord new_export(const ExportRequest& request);

}  // namespace volchain::storage
