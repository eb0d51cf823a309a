// SPDX-License-Identifier: MIT
//
// DiskBackup: one disk of a held moment is written into the directory of a chain of backups: all that is in it, or what has
// changed since an earlier moment, over that one's file. Then the file is read again, from the medium, and compared with what
// was read from the disk, block by block. The file and the list of its digests are parts until the whole moment is complete
// (backup_directory.h).
#pragma once

#include <optional>
#include <string>

#include "client/backup_directory.h"
#include "client/backup_work.h"
#include "client/held_moment.h"

namespace volchain::client {

/// Why nothing can stand on what a moment has of a disk; empty where that can be. Blocks.
[[nodiscard]] std::string unfit_to_stand_on(const BackupDirectory& directory, const BackupCatalog& catalog,
                                            const SavedMoment& moment, const SavedDisk& disk);

/// The lists of a moment's disk, and of what that stands on, the topmost first. Blocks.
[[nodiscard]] std::vector<std::shared_ptr<const DigestList>> digest_lists(const BackupDirectory& directory,
                                                                          const BackupCatalog& catalog,
                                                                          const SavedMoment& moment,
                                                                          const SavedDisk& disk);

class DiskBackup {
  public:
    /// `base`: the moment since which it is known what has changed; null: none. `result` has the names of the files.
    DiskBackup(BackupWork& work, BackupDirectory& directory, const BackupCatalog& catalog,
               const SavedMoment* base)
        : work_(work), directory_(directory), catalog_(catalog), base_(base) {}

    /// `saved`: id, name, target and the names of the files are given; the rest is what came of it.
    async::Task<SavedDisk> run(HeldMoment& held, std::size_t number, SavedDisk saved);

  private:
    /// What there is to be copied.
    struct Source {
        Connections readers;
        BlockRuns runs;
        std::uint64_t size = 0;
    };

    async::Task<> plan(HeldMoment& held, std::size_t number, SavedDisk& saved);
    async::Task<> copy(SavedDisk& saved);
    async::Task<> compare(SavedDisk& saved);
    async::Task<> sum_up(SavedDisk& saved);

    BackupWork& work_;
    BackupDirectory& directory_;
    const BackupCatalog& catalog_;
    const SavedMoment* base_;
    std::shared_ptr<Source> source_;
    std::shared_ptr<const DigestList> list_;
};

}  // namespace volchain::client
