// SPDX-License-Identifier: MIT
//
// DoomedFiles: the image files that an operation does away with, from the commit in which their records go to the last
// unlink(2). The operation owns it and keeps it in its plan, so that what a crash left of the files goes afterwards.
//
// A file goes only when nothing needs it: no snapshot, no disk, no header of another volume (check_removable()), and no
// process that has it open (QEMU's image locks, at the very end). One that cannot be removed gets its record back
// (give_back()): a file without one would be nobody's.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "storage/engine.h"

namespace volchain::storage {

/// Why a volume cannot go: the snapshot, disk, VM or volume that needs it, as a Busy or InUse error. `leaving`: volumes,
/// and snapshots, that go together with it. Headers are taken as they were last read.
void check_removable(Engine& engine, const Uuid& volume, const std::set<Uuid>& leaving);

/// The part of it that headers and QEMU tell: InUse where a volume that stays, or a running VM, stands on it.
void check_nothing_stands_on(Engine& engine, const Uuid& volume, const std::set<Uuid>& leaving);

/// The file as it is remembered where it cannot go now. Blocking: run on a worker thread.
[[nodiscard]] UnwantedFile unwanted_file(const std::string& pool_directory, const std::string& file);
/// Remembers a file without a record that was to go and could not, so that a check finds it. Where that cannot be written,
/// it is logged.
async::Task<> remember_unwanted(Engine& engine, std::string pool_directory, std::string file);

class DoomedFiles {
  public:
    DoomedFiles() = default;
    [[nodiscard]] static DoomedFiles from_plan(const JsonReader& list);
    [[nodiscard]] Json plan() const;

    /// The volume's record goes with `changes`, its file with unlink_all().
    void add(Engine& engine, const Uuid& volume, Changes& changes);
    /// A file that has no record (any more).
    void add(std::string pool_directory, std::string file);
    [[nodiscard]] bool empty() const noexcept { return files_.empty(); }

    /// After the commit. A file that is gone already is no error. The first error is thrown when all were tried: InUse
    /// where a process has a file open. What is left here afterwards is still there, and remembered as unwanted.
    async::Task<> unlink_all(Engine& engine);
    /// The volumes of the files that are left become leftovers of their disks, which go when it is possible. Their ids.
    std::vector<Uuid> give_back(Changes& changes) const;

  private:
    struct File {
        std::string pool;  ///< directory
        std::string file;  ///< relative to it
        std::optional<VolumeRecord> record;
    };
    std::vector<File> files_;
};

}  // namespace volchain::storage
