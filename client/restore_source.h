// SPDX-License-Identifier: MIT
//
// RestoreSource: what a disk is restored from: images that stand on each other, and where a catalogue tells what is in them,
// that. Either a moment's disk in a directory of backup run, or one image without any catalogue, as StartBackup in push mode
// writes them, with those below it in the same directory.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "client/backup_directory.h"
#include "client/backup_work.h"

namespace volchain::client {

struct RestoreSource {
    std::string name;    ///< of the disk
    std::string target;  ///< empty: not known
    std::uint64_t size = 0;
    std::vector<std::string> images;  ///< absolute paths, the bottom first
    /// What the images hold; null: nobody tells.
    std::shared_ptr<const MomentDigests> digests;
    std::string checksum;  ///< of the whole disk; empty: not known
};

/// Throws what makes it unfit: BrokenChain where an image is not there, CorruptImage where the catalogue and its lists do not
/// fit. Headers are not believed, but looked at: what they stand on is what the catalogue says.
async::Task<RestoreSource> source_in_catalog(BackupWork& work, const BackupDirectory& directory,
                                             const BackupCatalog& catalog, const SavedMoment& moment,
                                             const SavedDisk& disk);

/// Here the headers say what stands on what: plain names of qcow2 images in the same directory, and nothing else.
async::Task<RestoreSource> source_in_file(std::string path);

}  // namespace volchain::client
