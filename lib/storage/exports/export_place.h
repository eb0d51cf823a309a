// SPDX-License-Identifier: MIT
//
// ExportPlace: where an export has its sockets and files, and the making and removing of them. All names follow from the
// export's id, so that whatever a crash left is found again without a record of it.
//
//     RUNTIME/exports/ID/nbd.sock    what clients connect to; may be written by one user, and by root
//                       /qmp.sock    the monitor of its storage daemon; ours alone
//                       /disk.raw    what the file is mounted over
//                       /mount.sock  the monitor of the storage daemon that mounts it
//                       /tls/        credentials that the storage daemon reads
//     STATE/exports/ID.qcow2         what is written to a writable export
//
// It is a value. All calls block: they are for a worker thread.
#pragma once

#include <cstdint>
#include <string>

#include "async/process.h"
#include "base/unique_fd.h"
#include "storage/records/records.h"

namespace volchain::storage {

class ExportPlace {
  public:
    ExportPlace(const std::string& runtime_directory, const std::string& state_directory, const Uuid& id);

    [[nodiscard]] const std::string& directory() const noexcept { return directory_; }
    [[nodiscard]] std::string socket() const { return directory_ + "/nbd.sock"; }
    [[nodiscard]] std::string monitor() const { return directory_ + "/qmp.sock"; }
    [[nodiscard]] std::string mount_monitor() const { return directory_ + "/mount.sock"; }
    [[nodiscard]] std::string file() const { return directory_ + "/disk.raw"; }
    [[nodiscard]] std::string credentials() const { return directory_ + "/tls"; }
    [[nodiscard]] const std::string& overlay() const noexcept { return overlay_; }

    /// The directories, which may be there already.
    void make() const;
    /// The overlay, empty, of `size` bytes over the image `below`; it belongs to `owner`.
    void make_overlay(std::uint64_t size, const std::string& below, VolumeFormat format_below,
                      const async::Identity& owner) const;
    /// The socket for clients: it is `user`'s, so that nobody else but root can connect. For QEMU to inherit.
    [[nodiscard]] UniqueFd listen(uid_t user) const;
    void remove_credentials() const;
    /// The file that something can be mounted over, empty.
    void make_mountpoint() const;
    /// What is mounted there is `user`'s from now on.
    void give_file_to(uid_t user) const;
    /// What is mounted there, if anything is, goes; who has it open can read it no more.
    void unmount() const;
    /// Everything of the export, when nothing uses it any more: InUse where a process has the overlay open. What is gone
    /// already is no error.
    void remove() const;

  private:
    std::string runtime_exports_;
    std::string state_exports_;
    std::string directory_;
    std::string overlay_;
};

/// A connection to a Unix socket, as an NBD client has it. Throws Unreachable.
[[nodiscard]] UniqueFd connect_as_client(const std::string& socket);

}  // namespace volchain::storage
