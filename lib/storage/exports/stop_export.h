// SPDX-License-Identifier: MIT
//
// The operation that ends an export with everything that was made for it, and what can be done with one meanwhile.
//
// Steps: unplug (of a device: the guest lets go of it), end (the storage daemon), remove (sockets and files), finish. Each
// can be done again; after a crash the operation is carried on. Where something does not end, the export stays, and can be
// stopped again.
#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "base/unique_fd.h"
#include "storage/engine.h"

namespace volchain::storage {

/// A class with a constructor, so that it may be handed to coroutines.
struct StopExportRequest {
    StopExportRequest(const Uuid& which, std::uint32_t uid) : id(which), owner_uid(uid) {}

    Uuid id;
    std::uint32_t owner_uid;
    std::string why;                                     ///< for the log; empty: somebody asked for it
    std::optional<std::chrono::microseconds> timeout{};  ///< for the guest to let go of a device
};

/// The job's id. Result: nothing.
async::Task<Uuid> stop_export(Engine& engine, StopExportRequest request);

/// It ends that long from now; nothing: not by itself.
async::Task<> renew_export(Engine& engine, Uuid id, std::optional<std::chrono::microseconds> time_to_live);

/// A connection to what the export shows, for somebody else. Unsupported where it is not over a Unix socket.
async::Task<UniqueFd> open_export(Engine& engine, Uuid id);

/// Ends the processes of an export, in whatever state it is, or closes what is behind a device that has gone: nothing uses its
/// files when this returns.
async::Task<> end_export(Engine& engine, ExportRecord record, Exports::Daemons daemons);

async::Task<> recover_stop_export(Engine& engine, JobPtr job);
[[nodiscard]] std::vector<ObjectId> locks_of_stop_export(const JobRecord& job);

}  // namespace volchain::storage
