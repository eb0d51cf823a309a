// SPDX-License-Identifier: MIT
//
// An export as a file: a second storage daemon, which has no image open. It is a client of the first one's NBD server, and
// shows that through FUSE. To mount takes root's rights; who reads images that nobody trusts has none.
#pragma once

#include <memory>

#include "storage/exports/export_process.h"

namespace volchain::storage {

/// Throws Unsupported, saying what is missing, where nothing can be mounted.
void check_mounts_possible(const Engine& engine);

/// Starts the process, which mounts nothing yet.
async::Task<ExportProcess> start_export_mount(Engine& engine, ExportRecord record);
/// Mounts it, for the user of the record.
async::Task<> mount_export(Engine& engine, std::shared_ptr<qmp::StorageDaemon> mounter, ExportRecord record);
/// The process again, which shows what it should; errors as those of find_export_server().
async::Task<std::shared_ptr<qmp::StorageDaemon>> find_export_mount(Engine& engine, ExportRecord record);
/// Ends the process; what is mounted is unmounted, also where the process had no time for that.
async::Task<> end_export_mount(Engine& engine, ExportRecord record,
                               std::shared_ptr<qmp::StorageDaemon> mounter);

}  // namespace volchain::storage
