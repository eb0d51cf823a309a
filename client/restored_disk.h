// SPDX-License-Identifier: MIT
//
// RestoredDisk: a disk in the making by Manager.RestoreDisk: it is filled from a source, finished, and compared by the daemon's
// own checksum of it; or nothing is left of it. It is bound to this program until it is finished.
#pragma once

#include <string>

#include "client/backup_work.h"
#include "client/restore_source.h"

namespace volchain::client {

class RestoredDisk {
  public:
    RestoredDisk(BackupWork& work, RestoreSource source) : work_(work), source_(std::move(source)) {}

    [[nodiscard]] const RestoreSource& source() const noexcept { return source_; }
    /// The checksum of what was read from the source.
    [[nodiscard]] const std::string& checksum() const noexcept { return checksum_; }
    /// When it is one.
    [[nodiscard]] const bus::ObjectPath& disk() const noexcept { return disk_; }

    /// Manager.RestoreDisk, and what there is to be read, is written. Throws CorruptImage where the source is not what the
    /// catalogue says.
    async::Task<> fill(std::string name, bus::ObjectPath pool, bus::Dict options);
    /// It becomes a disk. It waits for a daemon that is being restarted.
    async::Task<> finish();
    /// The daemon reads it again.
    async::Task<> verify();
    /// As if there had been nothing; says in `left` what could not be taken back.
    async::Task<> take_back(std::vector<std::string>& left);

  private:
    struct Filling;

    async::Task<> copy(std::shared_ptr<Filling> filling);

    BackupWork& work_;
    RestoreSource source_;
    std::string checksum_;
    bus::ObjectPath making_;
    bus::ObjectPath shown_;
    bus::ObjectPath disk_;
    bus::ObjectPath volume_;
};

}  // namespace volchain::client
