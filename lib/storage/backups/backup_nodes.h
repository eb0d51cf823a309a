// SPDX-License-Identifier: MIT
//
// BackupNodes: what a backup consists of in the QEMU of its VM, from its block nodes to its NBD server; made, looked at, and
// taken away, in whatever state it is.
//
// A moment of several disks is held by one transaction, with one blockdev-backup (sync=none) for each disk and the new
// checkpoint's bitmaps. But up to QEMU 10.0 such a job lets the guest's writes fail where the old data cannot be copied away. So
// it only bridges the milliseconds until a filter has taken its place that lets the backup fail instead (copy-before-write,
// on-cbw-error=break-snapshot, cbw-timeout):
//
//     device -> filter -> root        root: the disk as the guest sees it
//     a -> b -> root                  scratch images, one the backing file of the other: what clients read
//
// The job copies to a what the guest overwrites before the filter is in place, the filter copies to b what it overwrites from
// then on. What is in neither is still on the disk. What blocks hold data, zeroes or nothing is right for clients that way,
// also of what only a backing file has, which a snapshot-access node does not tell. But where the filter has given up, clients
// read what the guest has written since. That is what healthy() finds out, by a snapshot-access node, on which reading fails
// then: it is asked all the time, and before a backup may count as good.
//
// What changes the path of the guest's writes are qom-set of a device's drive and the jobs alone: blockdev-reopen of a
// filter's "file" makes QEMU 7.2 fail an assertion.
#pragma once

#include <memory>
#include <string>

#include "qmp/session.h"
#include "storage/backups/backup_place.h"
#include "storage/engine.h"

namespace volchain::storage {

class BackupNodes {
  public:
    /// `session`: of the VM's QEMU.
    BackupNodes(Engine& engine, std::shared_ptr<qmp::Session> session, BackupRecord record)
        : engine_(engine), session_(std::move(session)), record_(std::move(record)) {}

    // The steps, in this order. What fails on the way is undone by remove().
    async::Task<> add_scratch();
    /// The moment, of all disks: one transaction. Throws CommandError where QEMU refused.
    async::Task<qmp::CallTimes> hold();
    async::Task<> put_filters();
    /// The nodes for reading, and what has changed since `since`.
    async::Task<> add_readers();
    // Of a backup in push mode: nodes that jobs can read, and, for each disk, a copy into an image, the node target(): first of
    // the moment at which the filter was put in place; where that has given up, reading fails. Then, when the filter is gone,
    // over it what b holds, and over that what a holds of the time before. What b holds has been copied from there already, but
    // for clusters that the guest has filled with zeroes meanwhile: QEMU 7.2 tells of a snapshot-access node that such are zero,
    // though it reads them as they were, and a job goes by what is told.
    async::Task<> add_copy_sources();
    async::Task<> end_filter(std::size_t disk);
    [[nodiscard]] std::string target(std::size_t disk) const { return node(disk, 't'); }
    async::Task<> add_target(Json image);
    async::Task<> remove_target(std::size_t disk);
    [[nodiscard]] std::string copy_job(std::size_t disk) const { return node(disk, 'p'); }
    [[nodiscard]] std::string patch_job(std::size_t disk) const { return node(disk, 'q'); }
    /// Of blockdev-backup.
    [[nodiscard]] Json copy_arguments(std::size_t disk) const;
    /// `which`: of the scratch images, 'b' or 'a'.
    [[nodiscard]] Json patch_arguments(std::size_t disk, char which) const;
    /// The NBD server, on a socket that it makes.
    async::Task<> start_server(std::string socket);
    async::Task<> show();

    /// Takes everything away, whatever is there. It can be done again.
    async::Task<> remove();
    [[nodiscard]] const std::shared_ptr<qmp::Session>& session() const noexcept { return session_; }
    [[nodiscard]] ScratchFile scratch(std::size_t disk, char which = 'a') const;
    /// Whether this QEMU has the filters.
    [[nodiscard]] async::Task<bool> there();

  private:
    /// Of all its nodes, jobs and exports.
    [[nodiscard]] std::string prefix() const;
    [[nodiscard]] std::string node(std::size_t disk, char which) const;
    [[nodiscard]] async::Deadline soon() const;
    async::Task<> ask(std::string command, Json arguments);
    async::Task<> add_scratch_of(std::size_t disk);
    async::Task<> end_job(std::size_t disk);
    async::Task<> add_alone(std::size_t disk, char which);
    async::Task<> remove_one(std::string node);
    async::Task<> add_health(std::size_t disk);
    async::Task<> add_changes(std::size_t disk, char which);
    async::Task<> set_drive(const BackupDisk& disk, std::string node);
    async::Task<> stop_server();
    async::Task<> break_off_jobs();
    async::Task<> break_off(std::string job);
    async::Task<> remove_nodes_of(std::size_t disk);

    Engine& engine_;
    std::shared_ptr<qmp::Session> session_;
    BackupRecord record_;
};

/// Throws QemuFailed where a disk of the backup does not show the moment any more, another error where that cannot be told now.
/// Blocks: for a worker thread.
void check_health(const std::string& socket, std::size_t disks);

}  // namespace volchain::storage
