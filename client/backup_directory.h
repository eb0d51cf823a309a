// SPDX-License-Identifier: MIT
//
// BackupDirectory: the directory that a chain of backups is kept in, and its making in small steps of which each leaves what
// was there before as good as it was:
//
//     volchain-backup.json            the catalogue: what it does not name is no backup
//     root.20260329T015959Z.qcow2     what a disk held then, or what had changed of it, over the file of the moment before
//     root.20260329T015959Z.digests   what is in that file (digest_list.h)
//     config.20260329T015959Z         the VM's configuration
//     .volchain-backup.lock           held by who works on it
//     .volchain-backup.pending        the files that are being made, or removed: so that the next run finds them
//     .NAME.part                      a file before it is complete
//
// All calls block; they are for a worker thread, but for open().
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "client/backup_catalog.h"

namespace volchain::client {

class BackupDirectory {
  public:
    enum class Use {
        write,  ///< alone
        read,   ///< beside others who read; a directory that cannot be written to is not locked
        look,   ///< at the catalogue alone
    };

    /// Throws Busy where somebody else works on it. `create`: make it where it is not there.
    BackupDirectory(const std::string& path, Use use, bool create);

    /// Absolute.
    [[nodiscard]] const std::string& path() const noexcept { return path_; }
    [[nodiscard]] std::string path_of(const std::string& name) const { return path_ + "/" + name; }
    [[nodiscard]] static std::string part_of(const std::string& name) { return "." + name + ".part"; }

    /// None where there is none. CorruptImage, saying what can be done.
    [[nodiscard]] std::optional<BackupCatalog> catalog() const;

    // --- making a moment ---
    /// Notes the files that are going to be made, before the first of them is.
    void begin(const std::vector<std::string>& names);
    /// An empty file, under the name of a part.
    [[nodiscard]] UniqueFd make_part(const std::string& name) const;
    /// A part that is not an image: whole, and durable.
    void write_part(const std::string& name, std::span<const std::byte> content) const;
    [[nodiscard]] UniqueFd open(const std::string& name) const;
    /// All of a file of at most `limit` bytes.
    [[nodiscard]] std::string content(const std::string& name, std::size_t limit) const;
    /// Makes a part durable that others have written; its length.
    [[nodiscard]] std::uint64_t flush_part(const std::string& name) const;
    /// All are complete: they get their names.
    void publish(const std::vector<std::string>& names);
    /// Writes the new catalogue beside the old one, so that what is left is a rename.
    void prepare(const BackupCatalog& catalog);
    /// From here on the moment is one.
    void commit();

    // --- what is not, or no more, of the catalogue ---
    /// Removes what was noted and is not in the catalogue; how many files.
    std::size_t clean_up(const BackupCatalog& catalog);

    /// Length, where there is a regular file; none where there is not.
    [[nodiscard]] std::optional<std::uint64_t> length_of(const std::string& name) const;

  private:
    void lock(Use use);
    [[nodiscard]] std::vector<std::string> pending() const;

    std::string path_;
    UniqueFd directory_;
    UniqueFd lock_;
};

}  // namespace volchain::client
