// SPDX-License-Identifier: MIT
//
// Checkpoints: moments since which the changes of a VM's disks are known, for incremental backups. A checkpoint is nothing but
// persistent dirty bitmaps of one name in the images of the disks, each recording from that moment on; there is no other
// record of it. Snapshots carry them on from layer to layer (overlays.h), merges unite them (merge_bitmaps.h).
//
// The name of such a bitmap is "vc.<16 digits: microseconds since the epoch>.<name>": by that ours are told from those of other
// programs, which are never touched, whatever they are called; and the moment is known without a record, too.
//
// Values and questions; what makes and removes checkpoints are operations (start_backup.h, delete_checkpoint.h).
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "qmp/block_graph.h"
#include "storage/engine.h"

namespace volchain::storage {

/// Which checkpoint: two that were made at different times are different ones, although they be called the same.
struct CheckpointName {
    CheckpointName(std::string called, Timestamp made) : name(std::move(called)), time(made) {}

    std::string name;
    Timestamp time;

    [[nodiscard]] std::string bitmap() const;
    /// None where the bitmap is none of ours.
    [[nodiscard]] static std::optional<CheckpointName> of_bitmap(const std::string& bitmap);
    friend bool operator==(const CheckpointName&, const CheckpointName&) = default;
};

/// Throws InvalidArgument where a checkpoint cannot be called so.
void check_checkpoint_name(const std::string& name);
/// One that begins at a moment. InvalidArgument, or AlreadyExists where the VM has one of that name, as it was last seen.
[[nodiscard]] CheckpointName new_checkpoint(const Engine& engine, const Uuid& vm, const std::string& name,
                                            Timestamp moment);
/// The one that began at just that moment.
[[nodiscard]] std::optional<CheckpointName> checkpoint_at(const Engine& engine, const Uuid& vm,
                                                          Timestamp moment);

enum class CheckpointState {
    ok,        ///< of all disks of the VM it is known what has changed since
    partial,   ///< of some of them
    unusable,  ///< of none
};
constexpr auto enum_names(CheckpointState) {
    return std::to_array<EnumName<CheckpointState>>({{CheckpointState::ok, "ok"},
                                                     {CheckpointState::partial, "partial"},
                                                     {CheckpointState::unusable, "unusable"}});
}

struct Checkpoint {
    explicit Checkpoint(CheckpointName which) : name(std::move(which)) {}

    struct Flaw {
        Uuid disk;
        std::string why;
    };

    CheckpointName name;
    CheckpointState state = CheckpointState::unusable;
    std::vector<Flaw> flaws;  ///< of the disks for which it is of no use
};

/// The checkpoints of the VM's disks as they were last seen, the oldest first.
[[nodiscard]] std::vector<Checkpoint> checkpoints_of(const Engine& engine, const Uuid& vm);
/// Those before a snapshot: since which it is known what had changed until then.
[[nodiscard]] std::vector<Checkpoint> checkpoints_before(const Engine& engine, const Uuid& snapshot);

/// The layers of a disk from a volume down, topmost first, and their bitmaps, as they were last seen.
[[nodiscard]] std::vector<qmp::Node> layers_as_seen(const Engine& engine, const Uuid& disk, const Uuid& top);

/// Reads the headers of what the running VM does not write to, in which bitmaps were stored; of a VM that is down, all.
async::Task<> look_at_checkpoints(Engine& engine, Uuid vm);

/// The checkpoint of that name. NotFound, or InvalidArgument where several are called so.
[[nodiscard]] CheckpointName find_checkpoint(const Engine& engine, const Uuid& vm, const std::string& name);
[[nodiscard]] CheckpointName find_checkpoint_before(const Engine& engine, const Uuid& snapshot,
                                                    const std::string& name);

/// The bitmap that somebody means who names a checkpoint of a volume: that of ours, or one that is called just so.
[[nodiscard]] std::string bitmap_meant(const VolumeFacts& top, const std::string& name);

}  // namespace volchain::storage
