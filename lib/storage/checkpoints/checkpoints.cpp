// SPDX-License-Identifier: MIT
#include "storage/checkpoints/checkpoints.h"

#include <algorithm>
#include <charconv>
#include <set>

#include "base/text.h"
#include "storage/checkpoints/export_bitmap.h"

namespace volchain::storage {
namespace {

constexpr std::string_view mark = "vc.";
constexpr std::size_t digits = 16;  // of the years 2001 to 2286

qmp::DirtyBitmap as_in_qemu(const qcow2::Bitmap& stored) {
    qmp::DirtyBitmap bitmap;
    bitmap.name = stored.name;
    bitmap.granularity = stored.granularity;
    bitmap.recording = stored.recording;
    bitmap.inconsistent = stored.in_use;
    bitmap.persistent = true;
    return bitmap;
}

/// All of ours in any layer: what is beneath alone is what is left of one that was deleted.
std::vector<CheckpointName> names_in(const std::vector<qmp::Node>& layers) {
    std::vector<CheckpointName> names;
    for (const qmp::Node& layer : layers)
        for (const qmp::DirtyBitmap& bitmap : layer.bitmaps)
            if (auto name = bitmap.persistent ? CheckpointName::of_bitmap(bitmap.name) : std::nullopt)
                names.push_back(*std::move(name));
    return names;
}

std::vector<const qmp::Node*> pointers_to(const std::vector<qmp::Node>& layers) {
    std::vector<const qmp::Node*> pointers;
    for (const qmp::Node& layer : layers) pointers.push_back(&layer);
    return pointers;
}

struct SeenDisk {
    Uuid id;
    std::vector<qmp::Node> layers;
};

std::vector<SeenDisk> disks_as_seen(const Engine& engine, const Uuid& vm) {
    std::vector<SeenDisk> disks;
    for (const Uuid& disk : engine.catalog().disks_of_vm(vm))
        disks.push_back({disk, layers_as_seen(engine, disk, engine.catalog().disk(disk).active)});
    return disks;
}

std::vector<SeenDisk> disks_of_snapshot_as_seen(const Engine& engine, const Uuid& snapshot) {
    std::vector<SeenDisk> disks;
    for (const auto& [disk, volume] : engine.catalog().snapshot(snapshot).disks)
        disks.push_back({disk, layers_as_seen(engine, disk, volume)});
    return disks;
}

Checkpoint judged(const CheckpointName& name, const std::vector<SeenDisk>& disks) {
    Checkpoint checkpoint(name);
    std::size_t good = 0;
    for (const SeenDisk& disk : disks) {
        const Recording recording = recording_in(pointers_to(disk.layers), name.bitmap());
        if (recording.flaw.empty())
            ++good;
        else
            checkpoint.flaws.push_back({disk.id, recording.flaw});
    }
    if (good == disks.size())
        checkpoint.state = CheckpointState::ok;
    else if (good > 0)
        checkpoint.state = CheckpointState::partial;
    return checkpoint;
}

/// The oldest first.
std::vector<Checkpoint> checkpoints_in(const std::vector<SeenDisk>& disks) {
    std::vector<CheckpointName> names;
    for (const SeenDisk& disk : disks)
        for (CheckpointName& name : names_in(disk.layers))
            if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(std::move(name));
    std::sort(names.begin(), names.end(), [](const CheckpointName& a, const CheckpointName& b) {
        return std::tie(a.time, a.name) < std::tie(b.time, b.name);
    });
    std::vector<Checkpoint> checkpoints;
    for (const CheckpointName& name : names) checkpoints.push_back(judged(name, disks));
    return checkpoints;
}

/// `owner`: of all, for messages.
CheckpointName find_among(const std::vector<Checkpoint>& all, const std::string& owner,
                          const std::string& name) {
    std::vector<CheckpointName> found;
    for (const Checkpoint& checkpoint : all)
        if (checkpoint.name.name == name || checkpoint.name.bitmap() == name)
            found.push_back(checkpoint.name);
    if (found.empty()) throw Error(ErrorCode::not_found, "{} has no checkpoint {}", owner, quote(name));
    if (found.size() > 1)
        throw Error(ErrorCode::invalid_argument,
                    "{} has {} checkpoints {}, of different times: its disks come from several VMs; delete "
                    "them one by one, by the names of their bitmaps",
                    owner, found.size(), quote(name));
    return found.front();
}

}  // namespace

std::string CheckpointName::bitmap() const {
    return fmt::format("{}{:016}.{}", mark, to_usec(time), name);
}

std::optional<CheckpointName> CheckpointName::of_bitmap(const std::string& bitmap) {
    if (!bitmap.starts_with(mark) || bitmap.size() < mark.size() + digits + 2) return std::nullopt;
    const char* const first = bitmap.data() + mark.size();
    const char* const last = first + digits;
    std::uint64_t usec = 0;
    const auto [end, failure] = std::from_chars(first, last, usec);
    if (failure != std::errc() || end != last || *last != '.') return std::nullopt;
    std::string name = bitmap.substr(mark.size() + digits + 1);
    // Nobody could have called ours so; and files are named after them.
    if (!valid_name(name)) return std::nullopt;
    return CheckpointName(std::move(name), from_usec(usec));
}

void check_checkpoint_name(const std::string& name) {
    check_name("checkpoint", name);
}

CheckpointName new_checkpoint(const Engine& engine, const Uuid& vm, const std::string& name,
                              Timestamp moment) {
    check_checkpoint_name(name);
    for (const Checkpoint& checkpoint : checkpoints_of(engine, vm))
        if (checkpoint.name.name == name)
            throw Error(ErrorCode::already_exists,
                        "{} has a checkpoint {} already; delete it, or name another",
                        engine.catalog().describe({ObjectKind::vm, vm}), quote(name));
    return {name, moment};
}

std::optional<CheckpointName> checkpoint_at(const Engine& engine, const Uuid& vm, Timestamp moment) {
    for (const Checkpoint& checkpoint : checkpoints_of(engine, vm))
        if (to_usec(checkpoint.name.time) == to_usec(moment)) return checkpoint.name;
    return std::nullopt;
}

std::vector<qmp::Node> layers_as_seen(const Engine& engine, const Uuid& disk, const Uuid& top) {
    const Catalog& catalog = engine.catalog();
    const DiskRecord& record = catalog.disk(disk);
    const std::vector<LiveDisk>* live = nullptr;
    if (record.vm && engine.vm(record.vm).live()) live = &engine.vm(record.vm).disks();
    std::vector<qmp::Node> layers;
    for (const Uuid& volume : catalog.chain(top)) {
        const VolumeFacts& facts = catalog.facts(volume);
        qmp::Node& layer = layers.emplace_back();
        layer.filename = catalog.path(catalog.volume(volume));
        layer.driver = word(catalog.volume(volume).format);
        layer.virtual_size = facts.size;
        for (const qcow2::Bitmap& bitmap : facts.bitmaps) layer.bitmaps.push_back(as_in_qemu(bitmap));
        if (live == nullptr) continue;
        // What QEMU has open for writing is in the image only when it is closed.
        for (const LiveDisk& running : *live)
            if (running.active().path == layer.filename) layer.bitmaps = running.active().bitmaps;
    }
    return layers;
}

std::vector<Checkpoint> checkpoints_of(const Engine& engine, const Uuid& vm) {
    return checkpoints_in(disks_as_seen(engine, vm));
}

std::vector<Checkpoint> checkpoints_before(const Engine& engine, const Uuid& snapshot) {
    return checkpoints_in(disks_of_snapshot_as_seen(engine, snapshot));
}

async::Task<> look_at_checkpoints(Engine& engine, Uuid vm) {
    const Catalog& catalog = engine.catalog();
    std::vector<Uuid> stored;
    for (const Uuid& disk : catalog.disks_of_vm(vm)) {
        const std::vector<Uuid> chain = catalog.chain(catalog.disk(disk).active);
        const bool open = engine.vm(vm).live();
        stored.insert(stored.end(), chain.begin() + (open ? 1 : 0), chain.end());
    }
    co_await engine.inspect_volumes(std::move(stored));
}

CheckpointName find_checkpoint(const Engine& engine, const Uuid& vm, const std::string& name) {
    return find_among(checkpoints_of(engine, vm), engine.catalog().describe({ObjectKind::vm, vm}), name);
}

CheckpointName find_checkpoint_before(const Engine& engine, const Uuid& snapshot, const std::string& name) {
    return find_among(checkpoints_before(engine, snapshot),
                      engine.catalog().describe({ObjectKind::snapshot, snapshot}), name);
}

std::string bitmap_meant(const VolumeFacts& top, const std::string& name) {
    std::set<std::string> ours;
    for (const qcow2::Bitmap& bitmap : top.bitmaps) {
        if (bitmap.name == name) return name;
        const auto checkpoint = CheckpointName::of_bitmap(bitmap.name);
        if (checkpoint && checkpoint->name == name) ours.insert(bitmap.name);
    }
    if (ours.size() > 1)
        throw Error(ErrorCode::invalid_argument,
                    "option 'since': there are {} checkpoints {}; name the bitmap: {}", ours.size(),
                    quote(name), joined({ours.begin(), ours.end()}, " or "));
    return ours.empty() ? name : *ours.begin();
}

}  // namespace volchain::storage
