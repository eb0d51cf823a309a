// SPDX-License-Identifier: MIT
//
// The files that a backup in push mode consists of: one qcow2 image for each disk, in a directory: all of the disk, or what changed
// since a checkpoint, over the file of that checkpoint's backup: a chain that can be opened as it lies. A file of disk "root" is
// called root.CHECKPOINT.qcow2, by which the next one finds it, or has the time in its name where no checkpoint began at its
// moment; with '-' for ':', which would make a protocol of what stands before it in a relative name.
//
// Until all of them are complete they are called otherwise. What is written into them is not decided here (push_backup.h,
// stored_backup.h).
#pragma once

#include <string>
#include <vector>

#include "storage/checkpoints/checkpoints.h"
#include "storage/engine.h"

namespace volchain::storage {

/// What is asked for. A class with a constructor, so that it may be handed to coroutines.
struct PushTarget {
    explicit PushTarget(std::string path) : directory(std::move(path)) {}

    std::string directory;  ///< absolute
    bool compress = false;
};

/// One file, as recovery needs it.
struct PushedFile {
    std::string directory;
    std::string name;
    std::string part;  ///< what it is called until all files of the backup are complete
    /// Name of the file that it is an overlay of, in the same directory; empty: it is full.
    std::string below{};
    /// The bitmap of the checkpoint that began at its moment, by which the next one knows it: that checkpoints are called alike
    /// says nothing. Empty: there is none. It is in the image's header (qcow2::Header::label).
    std::string checkpoint{};

    [[nodiscard]] std::string path() const { return directory + "/" + name; }
    [[nodiscard]] std::string part_path() const { return directory + "/" + part; }
    [[nodiscard]] Json json() const;
    [[nodiscard]] static PushedFile parse(const JsonReader& plan);
};

/// Throws InvalidArgument where nothing can be written there.
void check_push_directory(const std::string& path);

// Blocking: for a worker thread.

/// The files for the disks of a backup, in their order; `moment`: the checkpoint that began at the backup's moment, or none. A
/// disk for which the directory has nothing to put an increment on is made a full one, with the reason. AlreadyExists where a file is there.
[[nodiscard]] std::vector<PushedFile> plan_files(const std::vector<std::string>& disk_names,
                                                 const PushTarget& target,
                                                 const std::optional<CheckpointName>& moment,
                                                 BackupRecord& record);
/// An empty image; whoever may open `model`, an image in the directory `model_pool`, may open it.
void make_pushed_file(const PushedFile& file, std::uint64_t size, const std::string& model_pool,
                      const std::string& model);

/// Gives the files their names; those that have them already, keep them. AlreadyExists where another file has come meanwhile.
async::Task<> name_pushed_files(Engine& engine, std::vector<PushedFile> files);
async::Task<> remove_parts(Engine& engine, std::vector<PushedFile> files);

}  // namespace volchain::storage
