// SPDX-License-Identifier: MIT
#include "storage/disks/move_plan.h"

#include <algorithm>
#include <filesystem>

namespace volchain::storage {
namespace {

/// Those of ours stay; others could be taken in the new pool. What stands on a volume that is there already goes beside
/// that one: an overlay that is made for a guest names what it stands on by its name alone.
std::string name_in_new_pool(const Catalog& catalog, const VolumeRecord& volume, const Uuid& pool) {
    std::string name = std::filesystem::path(volume.file).filename().string();
    if (name.find(volume.id.str()) == std::string::npos)
        name = image_file_name(catalog.disk(volume.disk).name, volume.id, volume.format);
    const Uuid below = catalog.backing(volume.id);
    if (below.nil() || catalog.volume(below).pool != pool) return name;
    return (std::filesystem::path(catalog.volume(below).file).parent_path() / name).string();
}

/// All volumes of the disk, each after the one that it stands on.
std::vector<Uuid> bottom_first(const Catalog& catalog, const Uuid& disk) {
    std::vector<Uuid> volumes = catalog.volumes_of_disk(disk);
    std::stable_sort(volumes.begin(), volumes.end(), [&](const Uuid& a, const Uuid& b) {
        return catalog.chain(a).size() < catalog.chain(b).size();
    });
    return volumes;
}

void refuse_children_of_others(const Catalog& catalog, const Uuid& disk, const std::vector<Uuid>& volumes) {
    for (const Uuid& volume : volumes)
        for (const Uuid& child : catalog.children(volume))
            if (catalog.volume(child).disk != disk)
                throw Error(
                    ErrorCode::in_use,
                    "{} stands on {}, by its path; move the disk with 'collapse', or flatten that one",
                    catalog.describe({ObjectKind::volume, child}),
                    catalog.describe({ObjectKind::volume, volume}));
}

/// In QEMU the copy of the active volume has to stand on copies.
void check_own_backing(const Catalog& catalog, const Uuid& disk) {
    const Uuid below = catalog.backing(catalog.disk(disk).active);
    if (below && catalog.volume(below).disk != disk)
        throw Error(ErrorCode::unsupported,
                    "{} stands on {} of another disk: while its VM runs it can only be moved with 'collapse'",
                    catalog.describe({ObjectKind::disk, disk}),
                    catalog.describe({ObjectKind::volume, below}));
}

void check_volumes(const Catalog& catalog, const MovePlan& plan) {
    for (const MovedVolume& entry : plan.volumes) {
        const std::string what = catalog.describe({ObjectKind::volume, entry.volume});
        const VolumeFacts& facts = catalog.facts(entry.volume);
        if (facts.state != VolumeState::ok)
            throw Error(ErrorCode::broken_chain, "{} is {}: {}", what, word(facts.state), facts.problem);
        if (catalog.volume(entry.volume).mark == VolumeMark::illegal)
            throw Error(ErrorCode::broken_chain,
                        "{} is in the middle of a merge that was broken off; finish that first", what);
    }
}

}  // namespace

const MovedVolume* MovePlan::find(const Uuid& volume) const {
    const auto found = std::find_if(volumes.begin(), volumes.end(),
                                    [&](const MovedVolume& entry) { return entry.volume == volume; });
    return found == volumes.end() ? nullptr : &*found;
}

NewFile MovePlan::place_of(const Catalog& catalog, const MovedVolume& moved) const {
    return {catalog.pool(pool).path, moved.file};
}

std::string MovePlan::new_path(const Catalog& catalog, const Uuid& volume) const {
    const MovedVolume* const entry = find(volume);
    return entry != nullptr ? place_of(catalog, *entry).path() : catalog.path(catalog.volume(volume));
}

bool MovePlan::stands_alone(const Catalog& catalog, const Uuid& active) const {
    return collapse || catalog.backing(active).nil();
}

Json MovePlan::json() const {
    Json list = Json::array();
    for (const MovedVolume& moved : volumes)
        list.push_back({{"volume", moved.volume.str()},
                        {"file", moved.file},
                        {"from-pool", moved.from_pool},
                        {"from-file", moved.from_file}});
    return Json{{"vm", vm.str()},   {"pool", pool.str()},        {"live", live},
                {"begun", begun},   {"collapse", collapse},      {"switching", switching},
                {"prefix", prefix}, {"volumes", std::move(list)}};
}

MovePlan MovePlan::parse(const JobRecord& job) {
    const JsonReader reader(job.plan, "plan of job " + job.id.str(), ErrorCode::internal);
    MovePlan plan;
    plan.vm = id_in(reader.at("vm"));
    plan.pool = id_in(reader.at("pool"));
    plan.live = reader.at("live").boolean();
    plan.collapse = reader.at("collapse").boolean();
    plan.begun = reader.at("begun").boolean();
    plan.switching = reader.at("switching").boolean();
    plan.prefix = reader.at("prefix").string();
    for (const JsonReader& moved : reader.at("volumes").elements())
        plan.volumes.push_back({id_in(moved.at("volume")), moved.at("file").string(),
                                moved.at("from-pool").string(), moved.at("from-file").string()});
    return plan;
}

MovePlan plan_move(const Catalog& catalog, const MoveRequest& request, bool live) {
    const Uuid active = catalog.disk(request.disk).active;
    if (catalog.volume(active).pool == request.pool)
        throw Error(ErrorCode::invalid_argument, "{} is in {} already",
                    catalog.describe({ObjectKind::disk, request.disk}),
                    catalog.describe({ObjectKind::pool, request.pool}));
    MovePlan plan;
    plan.vm = catalog.disk(request.disk).vm;
    plan.pool = request.pool;
    plan.live = live;
    plan.collapse = request.collapse;
    plan.prefix = "vcm-" + Uuid::make().str().substr(0, 8) + "-";
    const std::vector<Uuid> volumes =
        request.collapse ? std::vector<Uuid>{active} : bottom_first(catalog, request.disk);
    refuse_children_of_others(catalog, request.disk, volumes);
    if (live && !request.collapse) check_own_backing(catalog, request.disk);
    for (const Uuid& id : volumes) {
        const VolumeRecord& volume = catalog.volume(id);
        if (volume.pool == request.pool) continue;
        plan.volumes.push_back({id, name_in_new_pool(catalog, volume, request.pool),
                                catalog.pool(volume.pool).path, volume.file});
    }
    check_volumes(catalog, plan);
    return plan;
}

ImageOptions standalone_image(const Catalog& catalog, const Uuid& volume) {
    const VolumeFacts& facts = catalog.facts(volume);
    ImageOptions image(facts.size);
    image.format = catalog.volume(volume).format;
    if (facts.header) {
        image.cluster_size = facts.header->cluster_size();
        image.extended_l2 = facts.header->features.extended_l2;
    }
    return image;
}

}  // namespace volchain::storage
