// SPDX-License-Identifier: MIT
//
// The operation that shows a snapshot's volume, or another one that nobody writes to, to a backup appliance. The volume and
// all that it stands on are held from then on (held_volumes.h).
//
// Steps: files (the overlay of a writable export), server (the storage daemon), graph (its nodes, the bitmap), show; of a
// file, mounter and mount; finish. A device has no server. What fails on the way, or is broken off by a crash, is undone:
// nothing is left of it. A device that the appliance turns out to have is finished instead.
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

/// The job's id. Result: "export".
async::Task<Uuid> export_snapshot(Engine& engine, Uuid snapshot, Uuid disk, ExportRequest request);
async::Task<Uuid> export_volume(Engine& engine, Uuid volume, ExportRequest request);

async::Task<> recover_export_volume(Engine& engine, JobPtr job);
[[nodiscard]] std::vector<ObjectId> locks_of_export_volume(const JobRecord& job);

}  // namespace volchain::storage
