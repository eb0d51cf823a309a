// SPDX-License-Identifier: MIT
#include "storage/snapshots/diff_snapshots.h"

#include <algorithm>
#include <map>

namespace volchain::storage {
namespace {

using qcow2::ChainExtent;
using qcow2::LayerKind;

// --- the disks of two states -------------------------------------------------------------------------------

/// Disk -> volume.
using State = std::map<Uuid, Uuid>;

void check_comparable(const Catalog& catalog, const SnapshotRecord& snapshot) {
    const std::string what = catalog.describe({ObjectKind::snapshot, snapshot.id});
    switch (snapshot.status) {
        case SnapshotStatus::ok:
        case SnapshotStatus::partial:
            return;
        case SnapshotStatus::failed:
            throw Error(ErrorCode::unsupported,
                        "{} is not all there any more: its deletion ended halfway; delete it again", what);
        case SnapshotStatus::creating:
        case SnapshotStatus::deleting:
            break;
    }
    throw Error(ErrorCode::busy, "{} is being {}", what,
                snapshot.status == SnapshotStatus::creating ? "created" : "deleted");
}

State snapshot_state(const Catalog& catalog, const SnapshotRecord& snapshot) {
    check_comparable(catalog, snapshot);
    State state;
    for (const SnapshotDisk& part : snapshot.disks)
        if (catalog.has({ObjectKind::disk, part.disk}) && catalog.has({ObjectKind::volume, part.volume}))
            state.emplace(part.disk, part.volume);
    return state;
}

/// What the VM of a snapshot shows now, or, where it has none, its disks.
State present_state(const Catalog& catalog, const SnapshotRecord& snapshot) {
    State state;
    if (snapshot.vm) {
        for (const Uuid& disk : catalog.disks_of_vm(snapshot.vm))
            state.emplace(disk, catalog.disk(disk).active);
        return state;
    }
    for (const SnapshotDisk& part : snapshot.disks)
        if (catalog.has({ObjectKind::disk, part.disk}))
            state.emplace(part.disk, catalog.disk(part.disk).active);
    return state;
}

State other_state(const Catalog& catalog, const Uuid& here, const std::optional<Uuid>& there) {
    return there ? snapshot_state(catalog, catalog.snapshot(*there))
                 : present_state(catalog, catalog.snapshot(here));
}

// --- one disk ----------------------------------------------------------------------------------------------

/// How many layers of `chain` are above the first that `other` has, too.
std::size_t layers_above_common(const ChainFiles& chain, const ChainFiles& other) {
    const auto shared =
        std::find_if(chain.volumes.begin(), chain.volumes.end(), [&other](const Uuid& volume) {
            return std::find(other.volumes.begin(), other.volumes.end(), volume) != other.volumes.end();
        });
    return static_cast<std::size_t>(shared - chain.volumes.begin());
}

/// Two chains side by side. Blocking.
class DiffScan {
  public:
    DiffScan(const ChainFiles& here, const ChainFiles& there)
        : here_(here),
          there_(there),
          above_here_(here_.map(0, layers_above_common(here, there))),
          above_there_(there_.map(0, layers_above_common(there, here))),
          common_(here_.map(layers_above_common(here, there), here_.size())),
          size_(std::max(here_.virtual_size(), there_.virtual_size())) {}

    /// Of the larger one.
    [[nodiscard]] std::uint64_t size() const noexcept { return size_; }
    [[nodiscard]] std::uint64_t size_here() { return here_.virtual_size(); }
    [[nodiscard]] std::uint64_t size_there() { return there_.virtual_size(); }

    struct Piece {
        ChainExtent extent;  ///< as it is there
        bool differs = false;
    };
    /// What begins at `offset`, which does not go back and is before the end.
    [[nodiscard]] Piece at(std::uint64_t offset) {
        ChainExtent here = above_here_.at(offset, size_);
        ChainExtent there = above_there_.at(offset, offset + here.length);
        if (here.kind == LayerKind::absent && there.kind == LayerKind::absent) return {there, false};
        if (here.kind == LayerKind::absent || there.kind == LayerKind::absent) {
            const ChainExtent below = common_.at(offset, offset + there.length);
            there.length = below.length;
            if (here.kind == LayerKind::absent) here.kind = below.kind;
            if (there.kind == LayerKind::absent) there.kind = below.kind;
        }
        return {there, here.kind == LayerKind::data || there.kind == LayerKind::data};
    }

  private:
    OpenChain here_;
    OpenChain there_;
    qcow2::ChainMap above_here_;
    qcow2::ChainMap above_there_;
    qcow2::ChainMap common_;
    std::uint64_t size_;
};

DiffPage read_page(const ChainFiles& here, const ChainFiles& there, std::uint64_t start) {
    DiffScan scan(here, there);
    if (start > scan.size())
        throw Error(ErrorCode::invalid_argument,
                    "argument 'start': {} is behind the end of the disk of {} bytes", start, scan.size());
    const async::Deadline deadline = async::after(slice_limit);
    DiffPage page;
    std::uint64_t offset = start;
    while (offset < scan.size()) {
        const DiffScan::Piece piece = scan.at(offset);
        if (piece.differs) qcow2::append(page.extents, piece.extent);
        if (page.extents.size() > max_map_extents) {
            page.extents.pop_back();
            page.next = offset;
            return page;
        }
        offset += piece.extent.length;
        if (async::Clock::now() > deadline) break;
    }
    if (offset < scan.size()) page.next = offset;
    return page;
}

/// All of one disk, counted.
class DiffCount {
  public:
    DiffCount(const ChainFiles& here, const ChainFiles& there) : scan_(here, there) {}

    /// Whether this was the last slice.
    bool run_slice() {
        const async::Deadline deadline = async::after(slice_limit);
        while (reached_ < scan_.size() && async::Clock::now() < deadline) {
            const DiffScan::Piece piece = scan_.at(reached_);
            reached_ += piece.extent.length;
            if (piece.differs) count(piece.extent);
        }
        return reached_ == scan_.size();
    }
    void report(DiskDiff& diff) {
        diff.size_here = scan_.size_here();
        diff.size_there = scan_.size_there();
        diff.bytes = bytes_;
        diff.extents = extents_;
    }

  private:
    void count(const ChainExtent& extent) {
        bytes_ += extent.length;
        if (extents_ == 0 || last_.offset + last_.length != extent.offset || last_.kind != extent.kind)
            ++extents_;
        last_ = extent;
    }

    DiffScan scan_;
    std::uint64_t reached_ = 0;
    std::uint64_t bytes_ = 0;
    std::uint64_t extents_ = 0;
    ChainExtent last_;
};

async::Task<DiskDiff> count_once(Engine& engine, Uuid here, Uuid there) {
    const ChainFiles chain_here = co_await settle_chain(engine, here);
    const ChainFiles chain_there = co_await settle_chain(engine, there);
    auto count = std::make_shared<std::optional<DiffCount>>();
    std::function<bool()> slice = [count, chain_here, chain_there] {
        if (!*count) count->emplace(chain_here, chain_there);
        return (*count)->run_slice();
    };
    const VolumeRecord volume = engine.catalog().volume(there);
    const ObjectId disk{ObjectKind::disk, volume.disk};
    co_await run_slices(engine, volume.pool, std::move(slice),
                        "comparing two states of " + engine.catalog().describe(disk));
    DiskDiff diff;
    (*count)->report(diff);
    co_return diff;
}

async::Task<DiffPage> page_once(Engine& engine, Uuid here, Uuid there, std::uint64_t start) {
    ChainFiles chain_here = co_await settle_chain(engine, here);
    ChainFiles chain_there = co_await settle_chain(engine, there);
    auto work = [chain_here = std::move(chain_here), chain_there = std::move(chain_there), start] {
        return read_page(chain_here, chain_there, start);
    };
    const Uuid pool = engine.catalog().volume(there).pool;
    co_return co_await read_images(engine, pool, std::move(work));
}

async::Task<DiskDiff> diff_both(Engine& engine, Uuid here, Uuid there) {
    std::function<async::Task<DiskDiff>()> once = [&engine, here, there] {
        return count_once(engine, here, there);
    };
    std::vector<Uuid> volumes(1, here);
    volumes.push_back(there);
    co_return co_await read_chains<DiskDiff>(engine, std::move(volumes), std::move(once));
}

}  // namespace

async::Task<std::vector<DiskDiff>> diff_snapshots(Engine& engine, Uuid here, std::optional<Uuid> there) {
    const Catalog& catalog = engine.catalog();
    const State mine = snapshot_state(catalog, catalog.snapshot(here));
    const State others = other_state(catalog, here, there);
    std::vector<DiskDiff> all;
    for (const auto& [disk, volume] : mine) {
        const auto other = others.find(disk);
        DiskDiff diff;
        if (other != others.end()) {
            diff = co_await diff_both(engine, volume, other->second);
        } else {
            diff.presence = DiskPresence::here;
            diff.size_here = catalog.facts(volume).size;
        }
        diff.disk = disk;
        all.push_back(diff);
    }
    for (const auto& [disk, volume] : others) {
        if (mine.contains(disk)) continue;
        all.emplace_back();
        all.back().disk = disk;
        all.back().presence = DiskPresence::there;
        all.back().size_there = catalog.facts(volume).size;
    }
    co_return all;
}

async::Task<DiffPage> diff_disk(Engine& engine, Uuid here, std::optional<Uuid> there, Uuid disk,
                                std::uint64_t start) {
    const Catalog& catalog = engine.catalog();
    const State mine = snapshot_state(catalog, catalog.snapshot(here));
    const State others = other_state(catalog, here, there);
    const auto first = mine.find(disk);
    const auto second = others.find(disk);
    if (first == mine.end() || second == others.end())
        throw Error(ErrorCode::not_found, "{} is not in both states",
                    catalog.describe({ObjectKind::disk, disk}));
    std::function<async::Task<DiffPage>()> once = [&engine, a = first->second, b = second->second, start] {
        return page_once(engine, a, b, start);
    };
    std::vector<Uuid> volumes(1, first->second);
    volumes.push_back(second->second);
    co_return co_await read_chains<DiffPage>(engine, std::move(volumes), std::move(once));
}

}  // namespace volchain::storage
