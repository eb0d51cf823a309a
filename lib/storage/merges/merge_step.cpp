// SPDX-License-Identifier: MIT
#include "storage/merges/merge_step.h"

#include <algorithm>

#include "base/text.h"
#include "storage/jobs/held_volumes.h"

namespace volchain::storage {
namespace {

/// So little is streamed into each of several children at once, for a chain that is shorter by one.
constexpr std::uint64_t little_data = std::uint64_t{16} << 20;

Json list(const std::vector<Uuid>& ids) {
    Json all = Json::array();
    for (const Uuid& id : ids) all.push_back(id.str());
    return all;
}

std::vector<Uuid> ids_in(const JsonReader& value) {
    std::vector<Uuid> ids;
    for (const JsonReader& element : value.elements()) ids.push_back(id_in(element));
    return ids;
}

/// What copying the volume's own data costs.
std::uint64_t data_of(const Catalog& catalog, const Uuid& volume) {
    return catalog.facts(volume).allocated;
}

/// Else everything below a volume of ours would be taken for nothing.
void check_backing_known(const Catalog& catalog, const Uuid& volume) {
    const auto& reference = catalog.facts(volume).backing;
    if (reference && catalog.backing(volume).nil())
        throw Error(ErrorCode::broken_chain, "{} stands on {}, which is no volume of ours; import it first",
                    catalog.describe({ObjectKind::volume, volume}), quote(reference->name));
}

/// Whether its bitmaps cannot be united with those of a layer above it: the disk has grown since (merge_bitmaps.h).
bool bitmaps_are_shorter(const Catalog& catalog, const std::set<Uuid>& recorded, const Uuid& volume,
                         const Uuid& above) {
    return recorded.contains(volume) && catalog.facts(volume).size != catalog.facts(above).size;
}

bool records(const VolumeFacts& facts) {
    return std::any_of(facts.bitmaps.begin(), facts.bitmaps.end(),
                       [](const qcow2::Bitmap& bitmap) { return bitmap.recording && !bitmap.in_use; });
}

bool records(const LiveLayer& layer) {
    return std::any_of(layer.bitmaps.begin(), layer.bitmaps.end(), [](const qmp::DirtyBitmap& bitmap) {
        return bitmap.persistent && bitmap.recording && !bitmap.inconsistent;
    });
}

/// Adjacent unwanted volumes, each with the one above as its only child.
struct Run {
    std::vector<Uuid> volumes;   ///< top first
    std::vector<Uuid> children;  ///< what stands on the top one
    [[nodiscard]] const Uuid& top() const { return volumes.front(); }
    [[nodiscard]] const Uuid& bottom() const { return volumes.back(); }
};

Run run_at(const Catalog& catalog, const Uuid& top, const std::set<Uuid>& unwanted,
           const std::set<Uuid>& recorded) {
    Run run{{top}, catalog.children(top)};
    for (Uuid below = catalog.backing(top); below; below = catalog.backing(below)) {
        if (!unwanted.contains(below) || catalog.children(below).size() != 1) break;
        // In a commit of one layer into the next, the lower one and its bitmaps grow first.
        if (!run.children.empty() &&
            bitmaps_are_shorter(catalog, recorded, run.bottom(), run.children.front()))
            break;
        run.volumes.push_back(below);
    }
    return run;
}

void check_own_children(const Catalog& catalog, const Uuid& disk, const Run& run) {
    for (const Uuid& child : run.children)
        if (catalog.volume(child).disk != disk)
            throw Error(ErrorCode::in_use, "{} is the backing file of {}, which belongs to {}",
                        catalog.describe({ObjectKind::volume, run.top()}),
                        catalog.describe({ObjectKind::volume, child}),
                        catalog.describe({ObjectKind::disk, catalog.volume(child).disk}));
}

/// One that lost in the moment of a switch may hold what the other has not, and is looked at by somebody first.
void check_children_good(const Catalog& catalog, const Run& run) {
    for (const Uuid& child : run.children)
        if (catalog.volume(child).mark == VolumeMark::illegal &&
            catalog.disk(catalog.volume(child).disk).active != child && catalog.children(child).empty())
            throw Error(ErrorCode::in_use, "{} stands on {}, but is illegal; delete it first",
                        catalog.describe({ObjectKind::volume, child}),
                        catalog.describe({ObjectKind::volume, run.top()}));
}

MergeStep commit_of(const Catalog& catalog, const Run& run) {
    MergeStep step;
    step.kind = MergeKind::commit;
    step.upper = run.children.front();
    step.lower = run.bottom();
    step.children = catalog.children(step.upper);
    step.removed = {step.upper};
    step.removed.insert(step.removed.end(), run.volumes.begin(), run.volumes.end() - 1);
    step.released = step.removed;
    for (const Uuid& volume : step.removed) step.cost += data_of(catalog, volume);
    return step;
}

MergeStep stream_of(const Catalog& catalog, const Run& run, const Uuid& child) {
    check_backing_known(catalog, run.bottom());
    MergeStep step;
    step.kind = MergeKind::stream;
    step.upper = child;
    step.lower = catalog.backing(run.bottom());
    step.removed = run.volumes;
    step.released = run.volumes;
    for (const Uuid& volume : step.removed) step.cost += data_of(catalog, volume);
    return step;
}

/// One child: the cheaper direction that keeps the bitmaps, or the one asked for.
MergeStep merge_of(const Catalog& catalog, const Run& run, Direction direction,
                   const std::set<Uuid>& recorded) {
    MergeStep commit = commit_of(catalog, run);
    MergeStep stream = stream_of(catalog, run, run.children.front());
    // A commit that was broken off in the moment of its switch is settled by that commit, whatever it costs by now: what
    // the guest wrote last may be in either of the two.
    const bool unsettled = catalog.volume(run.children.front()).mark == VolumeMark::illegal;
    const bool loses_bitmaps =
        catalog.volume(run.bottom()).format == VolumeFormat::raw && recorded.contains(run.children.front());
    const bool better_down = commit.cost < stream.cost ||
                             bitmaps_are_shorter(catalog, recorded, run.bottom(), run.children.front());
    const bool down = unsettled || direction == Direction::commit ||
                      (direction == Direction::automatic && better_down && !loses_bitmaps);
    return down ? commit : stream;
}

/// Several children: what is streamed is streamed into one of them, and into the next when that is done.
MergeStep spread_of(const Catalog& catalog, Run run, Direction direction) {
    if (direction == Direction::commit)
        throw Error(ErrorCode::in_use,
                    "{} has {} volumes standing on it: one of them cannot be written into it",
                    catalog.describe({ObjectKind::volume, run.top()}), run.children.size());
    const std::uint64_t all = data_of(catalog, run.top()) * run.children.size();
    if (direction == Direction::stream || all <= little_data) {
        run.volumes.resize(1);  // what is below may go down as one afterwards
        MergeStep step = stream_of(catalog, run, run.children.front());
        step.removed.clear();  // the others stand on it still
        return step;
    }
    MergeStep step;
    step.kind = MergeKind::keep;
    step.upper = run.top();
    return step;
}

MergeStep step_for(const Catalog& catalog, const Uuid& disk, const Run& run, Direction direction,
                   const std::set<Uuid>& recorded) {
    MergeStep step;
    if (run.children.empty()) {
        step.kind = MergeKind::drop;
        step.upper = run.top();
        step.removed = {run.top()};
        step.settled = {run.top()};
    } else {
        check_own_children(catalog, disk, run);
        check_children_good(catalog, run);
        step = run.children.size() == 1 ? merge_of(catalog, run, direction, recorded)
                                        : spread_of(catalog, run, direction);
        step.settled = run.children.size() == 1 ? run.volumes : std::vector<Uuid>{run.top()};
        if (step.kind == MergeKind::stream && step.removed.empty()) step.settled.clear();
    }
    step.disk = disk;
    return step;
}

}  // namespace

Json MergeStep::json() const {
    Json plan;
    plan["kind"] = word(kind);
    plan["disk"] = disk.str();
    plan["upper"] = upper.str();
    plan["lower"] = lower.str();
    plan["children"] = list(children);
    plan["released"] = list(released);
    plan["removed"] = list(removed);
    plan["settled"] = list(settled);
    plan["cost"] = cost;
    return plan;
}

MergeStep MergeStep::parse(const JsonReader& plan) {
    MergeStep step;
    step.kind = from_word<MergeKind>(plan.at("kind").string()).value_or(MergeKind::keep);
    step.disk = id_in(plan.at("disk"));
    step.upper = id_in(plan.at("upper"));
    step.lower = id_in(plan.at("lower"));
    step.children = ids_in(plan.at("children"));
    step.released = ids_in(plan.at("released"));
    step.removed = ids_in(plan.at("removed"));
    step.settled = ids_in(plan.at("settled"));
    step.cost = plan.at("cost").u64();
    return step;
}

std::optional<MergeStep> next_merge_step(const Catalog& catalog, const Uuid& disk,
                                         const std::set<Uuid>& unwanted, Direction direction,
                                         const MergeLimits& limits) {
    const std::set<Uuid>& recorded = limits.recorded;
    std::set<Uuid> going = unwanted;
    std::set<Uuid> leftovers;
    for (const Uuid& id : catalog.volumes_of_disk(disk))
        if (catalog.volume(id).mark == VolumeMark::leftover && !going.contains(id)) leftovers.insert(id);
    // Leftovers go along as soon as that is easy, and never in a direction that was asked for others.
    for (const Uuid& id : leftovers)
        if (catalog.children(id).size() <= 1 && !limits.held.contains(id) &&
            export_holding(catalog, id) == nullptr)
            going.insert(id);
    // What became active after all (a merge that ended in the moment of the switch) is nothing that can go.
    going.erase(catalog.disk(disk).active);
    for (const Uuid& id : going) {
        const auto children = catalog.children(id);
        const bool topmost = std::none_of(children.begin(), children.end(),
                                          [&](const Uuid& child) { return going.contains(child); });
        if (!topmost) continue;
        const Run run = run_at(catalog, id, going, recorded);
        const bool asked = unwanted.contains(id);
        return step_for(catalog, disk, run, asked ? direction : Direction::automatic, recorded);
    }
    return std::nullopt;
}

async::Task<MergeLimits> merge_limits(Engine& engine, Uuid disk) {
    const Catalog& catalog = engine.catalog();
    const Uuid vm = catalog.disk(disk).vm;
    const bool live = vm && engine.vm(vm).live();
    if (live) co_await engine.vm(vm).know_disks();
    MergeLimits limits;
    for (const Uuid& volume : catalog.volumes_of_disk(disk)) {
        if (engine.holds().held(volume)) limits.held.insert(volume);
        const std::string path = catalog.path(catalog.volume(volume));
        const LiveDisk* const open = live ? engine.vm(vm).disk_with_layer(path) : nullptr;
        if (records(catalog.facts(volume)) || (open != nullptr && records(*open->layer(path))))
            limits.recorded.insert(volume);
    }
    co_return limits;
}

MergeStep commit_step(const Catalog& catalog, const Uuid& upper, const Uuid& base) {
    const std::vector<Uuid> chain = catalog.chain(upper);
    const auto found = std::find(chain.begin(), chain.end(), base);
    const auto name = [&](const Uuid& volume) { return catalog.describe({ObjectKind::volume, volume}); };
    if (base == upper || found == chain.end())
        throw Error(ErrorCode::invalid_argument, "argument 'base': {} is not below {}", name(base),
                    name(upper));
    const Uuid disk = catalog.volume(upper).disk;
    for (auto layer = chain.begin() + 1; layer <= found; ++layer) {
        if (catalog.volume(*layer).disk != disk)
            throw Error(ErrorCode::in_use, "{} belongs to {}", name(*layer),
                        catalog.describe({ObjectKind::disk, catalog.volume(*layer).disk}));
        if (catalog.children(*layer).size() > 1)
            throw Error(ErrorCode::in_use,
                        "several volumes stand on {}: what is written to it would change them all",
                        name(*layer));
        for (const auto& [id, snapshot] : catalog.snapshots())
            for (const SnapshotDisk& part : snapshot.disks)
                if (part.volume == *layer)
                    throw Error(ErrorCode::in_use, "{} holds the state of {}; delete that snapshot instead",
                                name(*layer), catalog.describe({ObjectKind::snapshot, id}));
    }
    MergeStep step;
    step.kind = MergeKind::commit;
    step.disk = disk;
    step.upper = upper;
    step.lower = base;
    step.children = catalog.children(upper);
    step.removed.assign(chain.begin(), found);
    step.released = step.removed;
    for (const Uuid& volume : step.removed) step.cost += data_of(catalog, volume);
    return step;
}

MergeStep flatten_step(const Catalog& catalog, const Uuid& upper) {
    const std::vector<Uuid> chain = catalog.chain(upper);
    check_backing_known(catalog, chain.back());
    MergeStep step;
    step.kind = MergeKind::stream;
    step.disk = catalog.volume(upper).disk;
    step.upper = upper;
    step.released.assign(chain.begin() + 1, chain.end());
    for (auto layer = chain.begin() + 1; layer != chain.end(); ++layer) step.cost += data_of(catalog, *layer);
    return step;
}

}  // namespace volchain::storage
