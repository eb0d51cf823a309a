// SPDX-License-Identifier: MIT
//
// DiskView: what a check of a disk has seen, but for the insides of its images: whether a process has its files open, what
// the QEMU of its VM has of it, which jobs are under way. With the catalog's records and facts, read anew by
// look_at_disk(), it is all that findings of records, bitmaps and the block graph follow from. A value; it changes
// nothing.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "qmp/block_graph.h"
#include "storage/engine.h"

namespace volchain::storage {

/// One look at a volume's file from outside.
struct VolumeLook {
    bool written = false;      ///< a process has it open for writing
    bool used = false;         ///< a process has it open, in whatever way
    std::string carries;       ///< of a raw one: the format whose marks it has; empty: none
    bool backing_file = true;  ///< whether the file that its header names is there
};

/// What the QEMU of the disk's VM says.
struct DiskInQemu {
    bool running = false;  ///< it was asked
    std::string unknown;   ///< why nobody can tell whether it runs, or what it has; empty where that is known
    std::vector<LiveDisk> disks;
    qmp::BlockGraph graph;
    std::vector<std::string> jobs;  ///< QEMU's own, by id

    /// The disk with this active layer; null where there is none.
    [[nodiscard]] const LiveDisk* disk_on(const std::string& active_path) const;
    /// The node that is a layer of a guest's disk and has this file; null where there is none.
    [[nodiscard]] const qmp::Node* layer(const std::string& path) const;
};

struct DiskView {
    explicit DiskView(const Uuid& of) : disk(of) {}

    [[nodiscard]] const VolumeLook& look(const Uuid& volume) const;
    [[nodiscard]] PoolState pool(const Uuid& id) const;
    /// The volume of the disk that the guest writes to; nil where no QEMU runs on one.
    [[nodiscard]] Uuid running_on(const Catalog& catalog) const;

    Uuid disk;
    std::map<Uuid, PoolState> pools;   ///< those in which its volumes lie
    std::map<Uuid, VolumeLook> looks;  ///< of its volumes
    DiskInQemu qemu;
    std::set<std::string>
        missing_files;  ///< paths: of memory and variable stores of snapshots with this disk
    /// Of unfinished jobs but the check's own: all words in their plans, names of files and ids among them; the files of disks
    /// that are being restored; and since when a job is under way.
    std::set<std::string> planned;
    std::optional<Timestamp> jobs_since{};
};

/// Looks at all of it; also reads the headers of the disk's volumes, and of what they stand on, again. The disk and its VM
/// are locked by `job`.
[[nodiscard]] async::Task<DiskView> look_at_disk(Engine& engine, Uuid disk, Uuid job);

/// Whether the headers of all of the disk's volumes but `volume` were read: what stands on which is known only then.
[[nodiscard]] bool others_readable(const Catalog& catalog, const Uuid& volume);

/// Why a volume cannot go, by what the records say: "it is the active volume of ..., it holds the state of ..."; empty: no
/// record names it. And the same together with what stands on it.
[[nodiscard]] std::string named_as(const Catalog& catalog, const Uuid& volume);
[[nodiscard]] std::string needed_for(const Catalog& catalog, const Uuid& volume);

/// The snapshots that name the volume, for messages: "snapshot 'a' (...), snapshot 'b' (...)"; empty: none does.
[[nodiscard]] std::string snapshots_on(const Catalog& catalog, const Uuid& volume);

}  // namespace volchain::storage
