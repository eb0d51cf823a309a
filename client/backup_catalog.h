// SPDX-License-Identifier: MIT
//
// BackupCatalog: what the directory of a chain of backups (volchainctl backup run) says of itself, in volchain-backup.json:
// whose it is, the moments that can be restored from it, and in which files they are. A value.
//
// The document is foreign: it may come from anybody, by any way. Reading it holds it against limits; names of files are names
// in the directory and nothing else; and what one moment stands on is an earlier one of the same disk.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace volchain::client {

/// A disk as it was at a moment.
struct SavedDisk {
    std::string id;  ///< UUID
    std::string name;
    std::string target;  ///< the guest device that it was for
    std::uint64_t size = 0;
    std::string file;     ///< qcow2; a name in the directory
    std::string digests;  ///< what is in it (digest_list.h), likewise
    std::uint64_t file_bytes = 0;
    std::uint64_t data_bytes = 0;  ///< of the disk that were read for it
    std::string on;                ///< the moment whose file it stands on; empty: on none
    std::string why;               ///< it is full although an incremental one was wanted
    std::string checksum;          ///< of the whole disk, in the catalogue's algorithm

    [[nodiscard]] bool full() const noexcept { return on.empty(); }
};

/// The configuration of the VM, in a file of its own.
struct SavedConfig {
    std::string file;
    std::string type;
    std::string sha256;
};

struct SavedMoment {
    std::string id;  ///< "20260329T015959Z", also in names of files
    std::uint64_t usec = 0;
    std::string vm_name;
    std::string consistency;
    std::string checkpoint;  ///< of the VM, of this moment
    std::optional<SavedConfig> config;
    std::vector<SavedDisk> disks;

    /// Null where it has no such disk.
    [[nodiscard]] const SavedDisk* disk(std::string_view id) const;
};

struct BackupCatalog {
    std::string id;                    ///< UUID: of the chain, by which its checkpoints are told from others
    std::string vm_id;                 ///< UUID
    std::vector<SavedMoment> moments;  ///< the oldest first

    [[nodiscard]] const SavedMoment* moment(std::string_view id) const;
    /// A moment's disk, and what its file stands on, the topmost first.
    [[nodiscard]] std::vector<const SavedDisk*> chain(const SavedMoment& moment, const SavedDisk& disk) const;
    /// All names of files.
    [[nodiscard]] std::vector<std::string> files() const;

    [[nodiscard]] std::string text() const;
    /// Throws CorruptImage, or Unsupported for one of a later version.
    [[nodiscard]] static BackupCatalog parse(std::string_view text);
};

/// Throws unless it is the name of a file in a directory, not a hidden one. `reader` is what the message names.
[[nodiscard]] std::string file_name_in(const JsonReader& reader);

/// So long a catalogue may be, and so many a directory's moments, and a moment's disks.
inline constexpr std::size_t most_catalog_bytes = std::size_t{64} << 20;
inline constexpr std::size_t most_moments = 20'000;
inline constexpr std::size_t most_disks = 1'000;
/// So many files may stand on each other; then the next one is full. QEMU takes 200 nodes well, and each reads slower.
inline constexpr std::size_t longest_chain = 100;

}  // namespace volchain::client
