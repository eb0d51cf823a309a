// SPDX-License-Identifier: MIT
//
// HeldMoment: a moment of a VM's disks that the daemon holds for this command (org.volchain1.Backup), from StartBackup to Finish
// or Abort. It is bound to this program: where that ends in any way, the daemon aborts it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "client/backup_work.h"

namespace volchain::client {

/// One disk as the moment shows it.
struct HeldDisk {
    std::string id;  ///< UUID
    std::string name;
    std::string target;
    bool incremental = false;  ///< it is known what has changed
    std::string why;           ///< why not, where it was asked for
    bus::ObjectPath shown;     ///< the export
    std::string export_name;   ///< what an NBD client asks for
    std::string bitmap;        ///< the NBD context of what has changed; empty: none
};

class HeldMoment {
  public:
    explicit HeldMoment(BackupWork& work) : work_(work) {}
    HeldMoment(const HeldMoment&) = delete;
    HeldMoment& operator=(const HeldMoment&) = delete;

    /// VM.StartBackup, with these options and bind-to-caller.
    async::Task<> start(bus::ObjectPath vm, bus::Dict options);

    [[nodiscard]] const std::vector<HeldDisk>& disks() const noexcept { return disks_; }
    [[nodiscard]] std::string consistency() const { return backup_.text("Consistency"); }
    /// The moment that the disks show.
    [[nodiscard]] std::uint64_t usec() const;
    /// The VM's configuration then, and its MIME type.
    async::Task<std::tuple<bus::Variant::Bytes, std::string>> config();

    /// Connections to the export of a disk, for what is to be asked, and for reading. It waits for a daemon that is being
    /// restarted.
    async::Task<ImageSockets> open(std::size_t disk, std::size_t asking, std::size_t copying);

    /// Returns when the daemon has found that the moment was held until now; from then on it is no more. It waits for a daemon
    /// that is being restarted.
    async::Task<> finish();
    /// Nothing where there is nothing to abort. Never throws: the daemon does it by itself when this program has ended.
    async::Task<> abort();
    /// Why it has failed, where it has; empty where it has not, or nobody can tell.
    async::Task<std::string> problem();

  private:
    async::Task<> look();
    async::Task<bool> is_there();

    BackupWork& work_;
    bus::ObjectPath path_;
    Object backup_;
    std::vector<HeldDisk> disks_;
};

/// The name of an export in an NBD URI of a Unix socket, decoded; empty where it has none.
[[nodiscard]] std::string export_name_in(std::string_view uri);

}  // namespace volchain::client
