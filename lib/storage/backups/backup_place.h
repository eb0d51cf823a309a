// SPDX-License-Identifier: MIT
//
// BackupPlace: where a backup has its socket and its scratch images, and the making and removing of them. All names follow
// from the ids of the backup and its disks, so that whatever a crash left is found again.
//
//     RUNTIME/backups/ID/nbd.sock    what clients connect to; may be written by one user, and by root
//     .vc-ID-DISK-{a,b}.qcow2        beside the disk's active volume: what the guest has overwritten since; see backup_nodes.h
//
// The socket is made by the VM's QEMU, in a directory that is its user's until then.
//
// It is a value. All calls block: they are for a worker thread.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "async/process.h"
#include "storage/engine.h"

namespace volchain::storage {

class BackupPlace {
  public:
    BackupPlace(const std::string& runtime_directory, const Uuid& id)
        : parent_(runtime_directory + "/backups"), directory_(parent_ + "/" + id.str()) {}

    [[nodiscard]] std::string socket() const { return directory_ + "/nbd.sock"; }

    /// The directory, for QEMU to make the socket in.
    void make_for(const async::Identity& qemu) const;
    /// The socket is there: `user` alone may connect from now on.
    void give_socket_to(uid_t user) const;
    [[nodiscard]] bool has_socket() const;
    /// What is gone already is no error.
    void remove() const;

  private:
    std::string parent_;
    std::string directory_;
};
[[nodiscard]] BackupPlace place_of_backup(const Engine& engine, const Uuid& id);

/// A scratch image of a disk: `which`: 'a' or 'b'.
struct ScratchFile {
    std::string pool;  ///< directory
    std::string
        model;  ///< the active volume's image: whoever may open it, may open the scratch image; relative to the pool
    std::string file;        ///< relative to the pool
    std::uint64_t size = 0;  ///< of the disk

    [[nodiscard]] std::string path() const { return pool + "/" + file; }
};
[[nodiscard]] ScratchFile scratch_of(const Catalog& catalog, const Uuid& backup, const BackupDisk& disk,
                                     char which);
/// What may be left of backups that failed and could not be dismantled: without the disk nobody could tell any more where it is.
[[nodiscard]] std::vector<ScratchFile> scratch_of_failed_backups(const Catalog& catalog, const Uuid& disk);

/// An empty image.
void make_scratch(const ScratchFile& scratch);
/// Nothing happens where it is not there.
void remove_scratch(const ScratchFile& scratch);
/// Throws NoSpace where there is hardly any room for what the guest will overwrite.
void check_room_for_scratch(const ScratchFile& scratch);

}  // namespace volchain::storage
