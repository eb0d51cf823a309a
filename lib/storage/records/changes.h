// SPDX-License-Identifier: MIT
//
// Changes: a set of new states of records that becomes true as one: all of it in the database, or none.
#pragma once

#include <variant>
#include <vector>

#include "storage/records/records.h"

namespace volchain::storage {

/// The object is forgotten.
struct Removal {
    ObjectId object;
};

/// Since when a VM's file systems may be frozen by us; none: they are not. On disk before a freeze is sent,
/// so that a restarted daemon knows whom to thaw.
struct Frozen {
    Uuid vm;
    std::optional<Timestamp> since;
};

/// Whether the manifests in the pools lag behind the records of this VM.
struct ManifestStale {
    Uuid vm;
    bool stale = true;
};

/// A file that an operation was to unlink and could not: nothing needed it. It is found by the next check of a disk.
struct UnwantedFile {
    std::string pool;  ///< directory
    std::string file;  ///< relative to it
    /// Which one it was, as another may come in its place: 0 where that is not known.
    std::uint64_t inode = 0;
    Timestamp since{};
    bool unwanted = true;  ///< false: it is gone
};

using Change =
    std::variant<PoolRecord, DiskRecord, VolumeRecord, VmRecord, SnapshotRecord, ExportRecord, BackupRecord,
                 ScheduleRecord, JobRecord, Frozen, ManifestStale, UnwantedFile, Removal>;

class Changes {
  public:
    template <typename T>
    Changes& put(T record) {
        all_.emplace_back(std::move(record));
        return *this;
    }
    Changes& remove(ObjectKind kind, const Uuid& id) { return put(Removal{{kind, id}}); }

    [[nodiscard]] const std::vector<Change>& all() const noexcept { return all_; }
    [[nodiscard]] bool empty() const noexcept { return all_.empty(); }

  private:
    std::vector<Change> all_;
};

/// How long a commit waits.
enum class Durability {
    process,  ///< survives the death of the daemon: for step marks, which mean nothing after a power cut
    power,    ///< flushed to the medium: for everything that must be found again after a power cut
};

}  // namespace volchain::storage
