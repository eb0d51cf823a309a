// SPDX-License-Identifier: MIT
//
// The processes that exports consist of: storage daemons that belong to nobody, outlive the daemon, and are found again by
// the socket of their monitor and by the mark that is recorded of them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "qmp/storage_daemon.h"
#include "storage/engine.h"
#include "storage/exports/export_place.h"

namespace volchain::storage {

/// The paths of an export of this engine.
[[nodiscard]] ExportPlace place_of_export(const Engine& engine, const Uuid& id);

/// A storage daemon and the mark by which it is recorded.
struct ExportProcess {
    std::shared_ptr<qmp::StorageDaemon> daemon;
    ProcessMark mark;
};

/// Starts one. `name`: unique, for the service manager; `what`: for people.
async::Task<ExportProcess> start_export_process(Engine& engine, qmp::StorageDaemonOptions options,
                                                std::string name, std::string what);

/// Connects to the one that was recorded. Throws Unreachable where it is gone or does not answer, InUse where another
/// process is in its place.
async::Task<std::shared_ptr<qmp::StorageDaemon>> find_export_process(Engine& engine, std::string monitor,
                                                                     ProcessMark mark);

/// The node that its export shows; QemuFailed where it shows none.
async::Task<std::string> node_shown_by(Engine& engine, std::shared_ptr<qmp::StorageDaemon> daemon);

/// Ends it, in order where it lets itself be ended so, and returns when it is proved to be gone. `daemon`: the connection,
/// null where there is none. Throws where it does not go.
async::Task<> end_export_process(Engine& engine, std::string monitor, ProcessMark mark,
                                 std::shared_ptr<qmp::StorageDaemon> daemon);

/// The connections to the processes of one export: of the one that has the images open, then, of a file, of the one that
/// has it mounted. None for a device.
using ExportDaemons = std::vector<std::shared_ptr<qmp::StorageDaemon>>;

/// What all of them call their export.
inline constexpr const char* export_name = "export";

}  // namespace volchain::storage
