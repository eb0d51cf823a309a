// SPDX-License-Identifier: MIT
//
// Overlays: the new overlays of one operation, one for each of its disks, from their files to the switch:
// made, added to the VM's QEMU, switched to all at once, or taken away again. The operation owns it; what it
// has to know after a crash is its plan.
//
// The switch is the point of no return. After a crash, or when QEMU's answer did not come, settle() finds out
// from QEMU's block graph, or from the files where the VM is down, on which side of it things are.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "qmp/image_lock.h"
#include "storage/engine.h"
#include "storage/images/overlay_file.h"

namespace volchain::storage {

struct PlannedOverlay {
    Uuid disk;
    Uuid parent;  ///< the active volume until the switch
    Uuid volume;  ///< the new one
    Uuid pool;
    std::string file;      ///< relative to the pool
    bool activate = true;  ///< false: a branch that stands beside the active volume
    bool dropped = false;
    std::string why_dropped;
    bool over_active = false;  ///< as it was planned; not of the plan that recovery reads

    /// Node names of the overlay and its file: as short as can be unique, since QEMU reads them byte by byte
    /// while the guest is frozen (see qmp/node.h).
    [[nodiscard]] std::string node() const { return "vc-" + compact().substr(0, 16); }
    [[nodiscard]] std::string file_node() const { return "vcf-" + compact().substr(0, 16); }

  private:
    [[nodiscard]] std::string compact() const;
};

/// What is done when a disk cannot take part.
enum class OnDiskFailure { abort, exclude };
constexpr auto enum_names(OnDiskFailure) {
    return std::to_array<EnumName<OnDiskFailure>>(
        {{OnDiskFailure::abort, "abort"}, {OnDiskFailure::exclude, "exclude"}});
}

class Overlays {
  public:
    enum class Side { before_switch, after_switch };

    /// `vm`: in whose QEMU the disks are; nil: the disks are in no running QEMU.
    Overlays(Engine& engine, const Uuid& vm, OnDiskFailure on_failure)
        : engine_(engine), vm_(vm), on_failure_(on_failure) {}

    /// Plans an overlay over the disk's active volume.
    void add(const Uuid& disk);
    /// Plans a branch: an overlay over another of the disk's volumes, offline only.
    void add_branch(const Uuid& disk, const Uuid& parent, bool activate);
    /// A new persistent bitmap of that name in all overlays, for what is written from the switch on. Those of the volumes
    /// that they cover go on in any case.
    void begin_checkpoint(std::string bitmap) { checkpoint_ = std::move(bitmap); }
    [[nodiscard]] const std::string& checkpoint() const noexcept { return checkpoint_; }
    /// Leaves a disk out for a reason that is known beforehand; throws it under OnDiskFailure::abort.
    void drop(const Uuid& disk, const Error& reason);

    [[nodiscard]] Json plan() const;
    [[nodiscard]] static Overlays from_plan(Engine& engine, const JsonReader& plan);

    [[nodiscard]] bool live() const noexcept { return !vm_.nil(); }
    [[nodiscard]] const std::vector<PlannedOverlay>& all() const noexcept { return all_; }
    /// Those that were not dropped.
    [[nodiscard]] std::vector<PlannedOverlay> kept() const;

    // The steps, in this order. A disk that fails is dropped or fails the call, as said by OnDiskFailure;
    // where no disk is left the call fails in any case.
    /// Offline: takes QEMU's own locks and keeps them: on active volumes as a writer, which proves that
    /// nobody has them open; on the parents of branches as a reader, which proves that nobody writes to them.
    async::Task<> lock_images();
    void unlock_images() noexcept { locks_.clear(); }
    async::Task<> create_files();
    /// Offline: gives the overlays their bitmaps. Live, the switch does it.
    async::Task<> carry_bitmaps();
    async::Task<> add_nodes();
    /// One transaction for all disks. Throws CommandError where QEMU refused (and changed nothing); any other
    /// exception means that nobody knows: settle().
    async::Task<qmp::CallTimes> switch_over();

    /// Where things are, found out from what is there. Waits until a QEMU that cannot be reached is back or
    /// gone, and until the files' pools are there.
    async::Task<Side> settle();
    /// Takes everything away again. `opened`: QEMU may have had the files. Waits until a QEMU that cannot be
    /// reached is back or gone, and a while for others who have a file open; Error where something is in use all
    /// the same.
    async::Task<> undo(bool opened);

    /// The records after the switch: new volumes, and for each disk its new active one.
    [[nodiscard]] Changes changes() const;
    /// Makes the rest of the engine know: facts of the new volumes; and, live, the new layers of the VM's
    /// disks.
    void make_known();

  private:
    [[nodiscard]] OverlayFile file_of(const PlannedOverlay& overlay) const;
    [[nodiscard]] std::string path_of(const PlannedOverlay& overlay) const;
    [[nodiscard]] std::string parent_path(const PlannedOverlay& overlay) const;
    void fail(PlannedOverlay& overlay, const Error& error);
    void throw_if_none_left() const;
    void plan_overlay(const Uuid& disk, const Uuid& parent, bool activate);
    async::Task<> lock_images_of(PlannedOverlay overlay);
    async::Task<> lock_former_leaf(Uuid volume);
    async::Task<> create_file(std::size_t index);
    async::Task<> add_node(std::size_t index);
    async::Task<> carry_bitmaps_of(const PlannedOverlay& overlay);
    void check_stored(const PlannedOverlay& overlay, const std::vector<qcow2::Bitmap>& carried) const;
    async::Task<> remove_node(const PlannedOverlay& overlay);
    async::Task<> undo_one(const PlannedOverlay& overlay, bool opened);
    async::Task<> undo_in_the_end(PlannedOverlay overlay, bool opened);
    async::Task<> pause();
    [[nodiscard]] async::Task<Side> find_side();
    [[nodiscard]] async::Task<std::optional<Side>> look_for_side();
    [[nodiscard]] async::Task<Side> settle_live();
    [[nodiscard]] async::Task<Side> settle_down();
    async::Task<> look_at_files();
    async::Task<> look_at_file(PlannedOverlay overlay);
    [[nodiscard]] Json transaction() const;
    [[nodiscard]] std::vector<qmp::DirtyBitmap> bitmaps_over(const LiveDisk& disk) const;

    Engine& engine_;
    Uuid vm_;
    OnDiskFailure on_failure_;
    std::string checkpoint_;  ///< empty: none
    std::vector<PlannedOverlay> all_;
    std::optional<Error> last_failure_;  ///< of a disk that was dropped
    std::vector<qmp::ImageLock> locks_;
    std::map<Uuid, VolumeFacts> facts_;  ///< of the new volumes
};

/// Why a disk may not get a new active volume, whoever wants it; none where it may.
[[nodiscard]] std::optional<Error> not_to_be_covered(const DiskRecord& disk);

/// The bitmaps that tracking goes on with in an overlay: persistent, recording, consistent.
[[nodiscard]] std::vector<qmp::DirtyBitmap> carried_bitmaps(const std::vector<qmp::DirtyBitmap>& bitmaps);

}  // namespace volchain::storage
