// SPDX-License-Identifier: MIT
//
// The storage daemon of an export: one process each, so that a crash of it hits one export only, which outlives the daemon
// and is found again by the socket of its monitor. What it shows is the volume itself, opened read-only, or an overlay of
// the export's own on it; or an image in the making, for a restore.
//
// These are functions on a process that belongs to nobody (export_process.h). Exports (exports.h) keeps the connections.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "storage/exports/export_process.h"
#include "storage/qemu/helper.h"

namespace volchain::storage {

/// Where NBD clients find an export: an nbd+unix: or nbds: URI; empty for one that is no NBD server for others.
[[nodiscard]] std::string uri_of_export(const Engine& engine, const ExportRecord& record);

/// The path of the Unix socket of an export over NBD, also where a VM's QEMU shows it.
[[nodiscard]] std::string socket_of_export(const Engine& engine, const ExportRecord& record);

/// The backup, or the restore, that an export is a part of; null for none.
[[nodiscard]] const BackupRecord* backup_of_export(const Catalog& catalog, const ExportRecord& record);
/// Whether it has no storage daemon: the QEMU of a running VM shows it, for a backup.
[[nodiscard]] bool shown_by_vm(const Catalog& catalog, const ExportRecord& record);

/// What is asked for beyond the record. A class with a constructor, so that it may be handed to coroutines.
struct ExportServerOptions {
    explicit ExportServerOptions(async::Identity owner) : identity(owner) {}

    async::Identity identity;           ///< of the images' owner
    std::string tls_credentials;        ///< directory; for TCP
    std::uint32_t max_connections = 0;  ///< 0: QEMU's default
    std::vector<ImageAccess> images{};  ///< that it opens beside the record's volume and what that stands on
};

struct StartedExportServer {
    ExportProcess process;
    std::string address;  ///< of TCP, with the port that it got
};

/// Makes the sockets and starts the process, which shows nothing yet.
async::Task<StartedExportServer> start_export_server(Engine& engine, ExportRecord record,
                                                     ExportServerOptions options);

/// Opens the layers, and the overlay of an export that is writable, in a storage daemon or an appliance; those of a VM that is down so
/// that it can be started. The name of the node to be shown.
async::Task<std::string> open_export_layers(Engine& engine, std::shared_ptr<qmp::Session> session,
                                            ExportRecord record);

/// Shows the node over NBD. `bitmap`: a disabled one of that node, to go along; empty: none.
async::Task<> show_over_nbd(Engine& engine, std::shared_ptr<qmp::Session> session, ExportRecord record,
                            std::string node, std::string bitmap);

/// Shows nothing any more: clients lose their connections, whatever they do. It can be done again.
async::Task<> show_no_more(Engine& engine, std::shared_ptr<qmp::Session> session);

/// Connects to the process that the record says, and makes sure that it shows what it should. Throws Unreachable where it is
/// gone, InUse where another process is in its place, QemuFailed where it shows something else.
async::Task<std::shared_ptr<qmp::StorageDaemon>> find_export_server(Engine& engine, ExportRecord record);

/// Removes all sockets and files, after the end of the processes.
async::Task<> remove_export_files(Engine& engine, Uuid id);

}  // namespace volchain::storage
