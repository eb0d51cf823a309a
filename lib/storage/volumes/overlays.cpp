// SPDX-License-Identifier: MIT
#include "storage/volumes/overlays.h"

#include <algorithm>
#include <filesystem>

#include "base/text.h"
#include "qmp/node.h"
#include "storage/images/volume_lock.h"
#include "storage/qemu/helper.h"

namespace volchain::storage {
namespace {

/// How long somebody who has a file open is waited for, and how often one looks.
constexpr auto undo_limit = std::chrono::seconds(10);
constexpr auto undo_pause = std::chrono::milliseconds(200);
/// Of new bitmaps: that of a cluster, as QEMU's default is.
constexpr std::uint64_t checkpoint_granularity = 65536;

Json transaction_action(std::string type, Json data) {
    Json action;
    action["type"] = std::move(type);
    action["data"] = std::move(data);
    return action;
}

Json bitmap_arguments(const std::string& node, const std::string& name, std::uint64_t granularity) {
    Json data;
    data["node"] = node;
    data["name"] = name;
    data["granularity"] = granularity;
    data["persistent"] = true;
    return data;
}

Uuid uuid_in(const JsonReader& plan, std::string_view member) {
    const auto found = plan.find(member);
    return found ? Uuid::parse(found->string()).value_or(Uuid{}) : Uuid{};
}

}  // namespace

std::optional<Error> not_to_be_covered(const DiskRecord& disk) {
    if (!disk.shareable) return std::nullopt;
    return Error(ErrorCode::unsupported, "it is shared with other VMs, which would not notice");
}

std::string PlannedOverlay::compact() const {
    std::string text = volume.str();
    std::erase(text, '-');
    return text;
}

std::vector<qmp::DirtyBitmap> carried_bitmaps(const std::vector<qmp::DirtyBitmap>& bitmaps) {
    std::vector<qmp::DirtyBitmap> carried;
    for (const qmp::DirtyBitmap& bitmap : bitmaps)
        if (bitmap.persistent && bitmap.recording && !bitmap.inconsistent) carried.push_back(bitmap);
    return carried;
}

// --- the plan
// --------------------------------------------------------------------------------------------------------

void Overlays::add(const Uuid& disk) {
    plan_overlay(disk, engine_.catalog().disk(disk).active, true);
    all_.back().over_active = true;
}

void Overlays::add_branch(const Uuid& disk, const Uuid& parent, bool activate) {
    plan_overlay(disk, parent, activate);
}

void Overlays::plan_overlay(const Uuid& disk, const Uuid& parent, bool activate) {
    const VolumeRecord& below = engine_.catalog().volume(parent);
    PlannedOverlay overlay;
    overlay.disk = disk;
    overlay.parent = parent;
    overlay.volume = Uuid::make();
    overlay.pool = below.pool;
    overlay.file = overlay_file_name(below.file, engine_.catalog().disk(disk).name, overlay.volume);
    overlay.activate = activate;
    all_.push_back(std::move(overlay));
}

void Overlays::drop(const Uuid& disk, const Error& reason) {
    const auto found =
        std::find_if(all_.begin(), all_.end(), [&](const auto& overlay) { return overlay.disk == disk; });
    fail(*found, reason);
}

Json Overlays::plan() const {
    Json overlays = Json::array();
    for (const PlannedOverlay& overlay : all_) {
        Json entry;
        entry["disk"] = overlay.disk.str();
        entry["parent"] = overlay.parent.str();
        entry["volume"] = overlay.volume.str();
        entry["pool"] = overlay.pool.str();
        entry["file"] = overlay.file;
        entry["activate"] = overlay.activate;
        if (overlay.dropped) entry["dropped"] = overlay.why_dropped;
        overlays.push_back(std::move(entry));
    }
    Json plan;
    plan["overlays"] = std::move(overlays);
    plan["vm"] = vm_.nil() ? "" : vm_.str();
    plan["on-disk-failure"] = word(on_failure_);
    if (!checkpoint_.empty()) plan["checkpoint"] = checkpoint_;
    return plan;
}

Overlays Overlays::from_plan(Engine& engine, const JsonReader& plan) {
    const auto on_failure = from_word<OnDiskFailure>(plan.at("on-disk-failure").string());
    Overlays overlays(engine, uuid_in(plan, "vm"), on_failure.value_or(OnDiskFailure::abort));
    overlays.checkpoint_ = plan.string_or("checkpoint", "");
    for (const JsonReader& entry : plan.at("overlays").elements()) {
        PlannedOverlay overlay;
        overlay.disk = uuid_in(entry, "disk");
        overlay.parent = uuid_in(entry, "parent");
        overlay.volume = uuid_in(entry, "volume");
        overlay.pool = uuid_in(entry, "pool");
        overlay.file = entry.at("file").string();
        overlay.activate = entry.at("activate").boolean();
        overlay.dropped = entry.find("dropped").has_value();
        overlay.why_dropped = entry.string_or("dropped", "");
        overlays.all_.push_back(std::move(overlay));
    }
    return overlays;
}

std::vector<PlannedOverlay> Overlays::kept() const {
    std::vector<PlannedOverlay> kept;
    std::copy_if(all_.begin(), all_.end(), std::back_inserter(kept),
                 [](const auto& overlay) { return !overlay.dropped; });
    return kept;
}

OverlayFile Overlays::file_of(const PlannedOverlay& overlay) const {
    const VolumeRecord& parent = engine_.catalog().volume(overlay.parent);
    return {engine_.catalog().pool(overlay.pool).path, parent.file, parent.format, overlay.file};
}

std::string Overlays::path_of(const PlannedOverlay& overlay) const {
    return (std::filesystem::path(engine_.catalog().pool(overlay.pool).path) / overlay.file).string();
}

std::string Overlays::parent_path(const PlannedOverlay& overlay) const {
    return engine_.catalog().path(engine_.catalog().volume(overlay.parent));
}

void Overlays::fail(PlannedOverlay& overlay, const Error& error) {
    const Error named = error.during(engine_.catalog().describe({ObjectKind::disk, overlay.disk}));
    if (on_failure_ == OnDiskFailure::abort || error.code() == ErrorCode::cancelled) throw named;
    last_failure_ = named;
    overlay.dropped = true;
    overlay.why_dropped = error.what();
    log().notice("left out: {}", named.what());
}

void Overlays::throw_if_none_left() const {
    if (!kept().empty()) return;
    throw last_failure_ ? last_failure_->during("no disk is left to take part")
                        : Error(ErrorCode::unsupported, "no disk is left to take part");
}

// --- before the switch
// -----------------------------------------------------------------------------------------------

async::Task<> Overlays::lock_images() {
    for (PlannedOverlay& overlay : all_) {
        if (overlay.dropped) continue;
        std::exception_ptr failure;
        co_await async::keep_failure(lock_images_of(overlay), failure);
        if (failure) fail(overlay, to_error(failure));
    }
    throw_if_none_left();
}

async::Task<> Overlays::lock_images_of(PlannedOverlay overlay) {
    const Uuid active = engine_.catalog().disk(overlay.disk).active;
    if (overlay.over_active && overlay.parent != active)
        throw Error(ErrorCode::busy, "{} has just got another active volume; ask again",
                    engine_.catalog().describe({ObjectKind::disk, overlay.disk}));
    if (overlay.parent == active) {
        locks_.push_back(co_await lock_for_writing(engine_, active));
    } else {
        locks_.push_back(co_await lock_for_reading(engine_, overlay.parent));
        if (overlay.activate) co_await lock_former_leaf(active);
    }
    // Only now nobody can change it any more: its size and its bitmaps are the overlay's.
    co_await engine_.inspect_volume(overlay.parent);
    const VolumeFacts& facts = engine_.catalog().facts(overlay.parent);
    if (facts.state != VolumeState::ok)
        throw Error(ErrorCode::broken_chain, "{} is {}: {}",
                    engine_.catalog().describe({ObjectKind::volume, overlay.parent}), word(facts.state),
                    facts.problem);
}

/// That its file is lost may be the very reason to go to another branch.
async::Task<> Overlays::lock_former_leaf(Uuid volume) {
    auto lock = co_await lock_if_there(engine_, volume);
    if (lock) locks_.push_back(*std::move(lock));
}

async::Task<> Overlays::create_files() {
    // All at once: most of the time goes into flushing, and the flushes of several files cost hardly more
    // than one.
    async::TaskGroup creators(engine_.executor());
    std::vector<std::exception_ptr> failures(all_.size());
    for (std::size_t index = 0; index < all_.size(); ++index)
        if (!all_[index].dropped)
            creators.spawn(async::keep_failure(create_file(index), failures[index]), "creating an overlay");
    co_await creators.drain();
    for (std::size_t index = 0; index < all_.size(); ++index)
        if (failures[index]) fail(all_[index], to_error(failures[index]));
    throw_if_none_left();
}

async::Task<> Overlays::create_file(std::size_t index) {
    const OverlayFile names = file_of(all_[index]);
    auto work = [names] {
        create_overlay_file(names);
        return inspect_image(names.pool, names.file, VolumeFormat::qcow2);
    };
    VolumeFacts facts = co_await engine_.files().run(std::move(work));
    facts_[all_[index].volume] = std::move(facts);
}

async::Task<> Overlays::add_nodes() {
    for (std::size_t index = 0; index < all_.size(); ++index) {
        if (all_[index].dropped) continue;
        std::exception_ptr failure;
        co_await async::keep_failure(add_node(index), failure);
        if (!failure) continue;
        const Error error = to_error(failure);
        // A QEMU that is gone is no matter of one disk.
        if (error.code() == ErrorCode::unreachable || error.code() == ErrorCode::timeout) throw error;
        co_await undo_one(all_[index], true);
        fail(all_[index], error);
    }
    throw_if_none_left();
}

async::Task<> Overlays::add_node(std::size_t index) {
    const PlannedOverlay overlay = all_[index];
    Vm& vm = engine_.vm(vm_);
    const LiveDisk* const disk = vm.find_disk(parent_path(overlay));
    if (disk == nullptr) throw Error(ErrorCode::not_running, "the running VM does not have it");
    const std::string path = path_of(overlay);
    Json file = qmp::file_node(overlay.file_node(), path, qmp::Access::read_write, disk->options);
    Json node = qmp::without_backing(
        qmp::format_node(overlay.node(), "qcow2", std::move(file), qmp::Access::read_write, disk->options));
    (void)co_await vm.session()->execute("blockdev-add", std::move(node),
                                         async::after(engine_.settings().command_timeout));
}

async::Task<> Overlays::carry_bitmaps() {
    for (PlannedOverlay& overlay : all_) {
        if (overlay.dropped) continue;
        std::exception_ptr failure;
        co_await async::keep_failure(carry_bitmaps_of(overlay), failure);
        if (failure) {
            co_await undo_one(overlay, true);
            fail(overlay, to_error(failure));
        }
    }
    throw_if_none_left();
}

async::Task<> Overlays::carry_bitmaps_of(const PlannedOverlay& overlay) {
    // QEMU writes bitmaps to the image when it closes it, which was after the last look at it.
    co_await engine_.inspect_volume(overlay.parent);
    std::vector<qcow2::Bitmap> bitmaps = engine_.catalog().facts(overlay.parent).bitmaps;
    std::erase_if(bitmaps, [](const qcow2::Bitmap& bitmap) { return bitmap.in_use || !bitmap.recording; });
    if (bitmaps.empty() && checkpoint_.empty()) co_return;
    const async::Deadline deadline = async::after(engine_.settings().command_timeout);
    const auto helper = co_await start_storage_daemon(engine_, path_of(overlay));
    const qmp::NodeOptions options;
    Json file = qmp::file_node(overlay.file_node(), path_of(overlay), qmp::Access::read_write, options);
    Json node = qmp::without_backing(
        qmp::format_node(overlay.node(), "qcow2", std::move(file), qmp::Access::read_write, options));
    (void)co_await helper->session()->execute("blockdev-add", std::move(node), deadline);
    for (const qcow2::Bitmap& bitmap : bitmaps) {
        Json arguments = bitmap_arguments(overlay.node(), bitmap.name, bitmap.granularity);
        (void)co_await helper->session()->execute("block-dirty-bitmap-add", std::move(arguments), deadline);
    }
    if (!checkpoint_.empty()) {
        Json arguments = bitmap_arguments(overlay.node(), checkpoint_, checkpoint_granularity);
        (void)co_await helper->session()->execute("block-dirty-bitmap-add", std::move(arguments), deadline);
    }
    // They are written to the image when the storage daemon closes it.
    const bool clean = co_await helper->stop(deadline);
    if (!clean) throw Error(ErrorCode::qemu_failed, "the storage daemon did not end in order");
    co_await look_at_file(overlay);
    check_stored(overlay, bitmaps);
}

/// For lack of room QEMU leaves bitmaps out when it closes an image, and says nothing.
void Overlays::check_stored(const PlannedOverlay& overlay, const std::vector<qcow2::Bitmap>& carried) const {
    const auto stored = [&](const std::string& name) {
        const auto& all = facts_.at(overlay.volume).bitmaps;
        return std::any_of(all.begin(), all.end(), [&](const qcow2::Bitmap& bitmap) {
            return bitmap.name == name && bitmap.recording && !bitmap.in_use;
        });
    };
    if (!checkpoint_.empty() && !stored(checkpoint_))
        throw Error(ErrorCode::no_space, "the checkpoint could not be stored in {}; is there room for it?",
                    quote(path_of(overlay)));
    for (const qcow2::Bitmap& bitmap : carried)
        if (!stored(bitmap.name))
            log().warning(
                "bitmap {} could not be carried on to {}: what changes from now on is not known to it",
                quote(bitmap.name), quote(path_of(overlay)));
}

/// Those that an overlay over the disk's active layer has from the switch on.
std::vector<qmp::DirtyBitmap> Overlays::bitmaps_over(const LiveDisk& disk) const {
    std::vector<qmp::DirtyBitmap> bitmaps = carried_bitmaps(disk.active().bitmaps);
    if (checkpoint_.empty()) return bitmaps;
    qmp::DirtyBitmap& bitmap = bitmaps.emplace_back();
    bitmap.name = checkpoint_;
    bitmap.granularity = checkpoint_granularity;
    bitmap.recording = true;
    bitmap.persistent = true;
    return bitmaps;
}

// --- the switch
// ------------------------------------------------------------------------------------------------------

Json Overlays::transaction() const {
    Json actions = Json::array();
    for (const PlannedOverlay& overlay : kept()) {
        const LiveDisk* const disk = engine_.vm(vm_).find_disk(parent_path(overlay));
        if (disk == nullptr)
            throw Error(ErrorCode::not_running, "the running VM does not have {} any more",
                        engine_.catalog().describe({ObjectKind::disk, overlay.disk}));
        // Each bitmap before the snapshot of its disk: no write of the guest goes unrecorded.
        for (const qmp::DirtyBitmap& bitmap : bitmaps_over(*disk))
            actions.push_back(transaction_action(
                "block-dirty-bitmap-add", bitmap_arguments(overlay.node(), bitmap.name, bitmap.granularity)));
        Json snapshot;
        snapshot["node"] = disk->active().node;
        snapshot["overlay"] = overlay.node();
        actions.push_back(transaction_action("blockdev-snapshot", std::move(snapshot)));
    }
    Json arguments;
    arguments["actions"] = std::move(actions);
    return arguments;
}

async::Task<qmp::CallTimes> Overlays::switch_over() {
    Json arguments = transaction();
    const auto answer = co_await engine_.vm(vm_).session()->ask(
        "transaction", std::move(arguments), async::after(engine_.settings().switch_timeout));
    co_return answer.times;
}

Changes Overlays::changes() const {
    Changes changes;
    for (const PlannedOverlay& overlay : kept()) {
        changes.put(VolumeRecord{overlay.volume, overlay.disk, overlay.pool, overlay.file,
                                 VolumeFormat::qcow2, now()});
        if (!overlay.activate) continue;
        DiskRecord disk = engine_.catalog().disk(overlay.disk);
        disk.active = overlay.volume;
        changes.put(std::move(disk));
    }
    return changes;
}

void Overlays::make_known() {
    for (const PlannedOverlay& overlay : kept()) {
        if (const auto found = facts_.find(overlay.volume); found != facts_.end())
            engine_.catalog().set_facts(overlay.volume, found->second);
        if (!live()) continue;
        const std::string parent = parent_path(overlay);
        const LiveDisk* const disk = engine_.vm(vm_).find_disk(parent);
        if (disk == nullptr) continue;
        LiveLayer layer{overlay.node(), "qcow2", path_of(overlay)};
        layer.file_node = overlay.file_node();
        layer.bitmaps = bitmaps_over(*disk);
        engine_.vm(vm_).cover(parent, std::move(layer));
        // QEMU has closed it for writing, and stored its bitmaps.
        engine_.spawn(engine_.inspect_volume(overlay.parent), "reading the header of a volume");
    }
}

// --- undoing, settling
// -----------------------------------------------------------------------------------------------

async::Task<> Overlays::remove_node(const PlannedOverlay& overlay) {
    if (!live()) co_return;
    co_await engine_.vm(vm_).look_now(async::after(engine_.settings().greeting_timeout * 2));
    if (engine_.vm(vm_).down()) co_return;
    const std::shared_ptr<qmp::Session> session =
        engine_.vm(vm_).session();  // Unreachable: it may have the node
    Json arguments;
    arguments["node-name"] = overlay.node();
    try {
        (void)co_await session->execute("blockdev-del", std::move(arguments),
                                        async::after(engine_.settings().command_timeout));
    } catch (const qmp::CommandError& error) {
        // QEMU has no class of its own for a node that is not there.
        const bool absent = error.description().find("Failed to find node") != std::string::npos;
        if (!absent) throw;
    }
}

async::Task<> Overlays::undo_one(const PlannedOverlay& overlay, bool opened) {
    co_await remove_node(overlay);
    const OverlayFile names = file_of(overlay);
    auto work = [names, opened] { remove_new_overlay(names, opened); };
    co_await engine_.files().run(std::move(work));
}

/// Tries again where that helps: a QEMU that does not answer will, or end; a helper of a daemon that was killed
/// has the file for a moment longer.
async::Task<> Overlays::undo_in_the_end(PlannedOverlay overlay, bool opened) {
    const async::Deadline end = async::after(undo_limit);
    for (bool complained = false;; complained = true) {
        std::exception_ptr failure;
        co_await async::keep_failure(undo_one(overlay, opened), failure);
        if (!failure) co_return;
        const Error error = to_error(failure);
        const bool silent = error.code() == ErrorCode::unreachable || error.code() == ErrorCode::timeout;
        const bool held = error.code() == ErrorCode::in_use && async::Clock::now() < end;
        if (!silent && !held) throw error;
        if (!complained)
            log().warning("{} cannot be taken away yet: {}", quote(path_of(overlay)), error.what());
        if (silent)
            co_await pause();
        else
            co_await async::sleep_until(async::after(undo_pause));
    }
}

async::Task<> Overlays::undo(bool opened) {
    std::exception_ptr first;
    for (const PlannedOverlay& overlay : all_) {
        if (overlay.dropped) continue;  // which was taken away then
        std::exception_ptr failure;
        co_await async::keep_failure(undo_in_the_end(overlay, opened), failure);
        if (!first) first = failure;
    }
    locks_.clear();
    if (first) std::rethrow_exception(first);
}

async::Task<Overlays::Side> Overlays::settle() {
    const Side side = co_await find_side();
    if (side == Side::after_switch) co_await look_at_files();
    co_return side;
}

/// After a crash nobody has looked at the new files yet.
async::Task<> Overlays::look_at_files() {
    for (const PlannedOverlay& overlay : kept()) co_await look_at_file(overlay);
}

async::Task<> Overlays::look_at_file(PlannedOverlay overlay) {
    auto work = [names = file_of(overlay)] {
        return inspect_image(names.pool, names.file, VolumeFormat::qcow2);
    };
    VolumeFacts facts = co_await engine_.files().run(std::move(work));
    facts_[overlay.volume] = std::move(facts);
}

/// Whatever goes wrong meanwhile: it is found out in the end, and nothing is touched before.
async::Task<Overlays::Side> Overlays::find_side() {
    for (bool complained = false;; complained = true) {
        std::optional<Side> side;
        std::exception_ptr failure;
        co_await async::keep_result(look_for_side(), side, failure);
        if (side) co_return *side;
        if (failure) {
            const Error error = to_error(failure);
            if (error.code() == ErrorCode::cancelled) throw error;
            if (!complained) log().warning("cannot find out yet how far an operation got: {}", error.what());
        }
        co_await pause();
    }
}

/// None where QEMU is neither reachable nor gone: it hangs, or somebody else has its monitor.
async::Task<std::optional<Overlays::Side>> Overlays::look_for_side() {
    if (!live()) {
        // Offline the switch is the commit of the records. What is to be taken away has to be there, though.
        (void)co_await settle_down();
        co_return Side::before_switch;
    }
    co_await engine_.vm(vm_).look_now(async::after(engine_.settings().greeting_timeout * 2));
    if (engine_.vm(vm_).live()) co_return co_await settle_live();
    if (engine_.vm(vm_).down()) co_return co_await settle_down();
    co_return std::nullopt;
}

/// Until the VM is not as it was, or it is time to look at the files again, of which nobody tells.
async::Task<> Overlays::pause() {
    const async::Deadline end = async::after(engine_.settings().pool_check_interval);
    if (!live()) co_return co_await async::sleep_until(end);
    std::exception_ptr ended;
    co_await async::keep_failure(engine_.vm(vm_).wait_changed(end), ended);
    // Never in a circle without a rest.
    co_await async::sleep_until(async::after(undo_pause));
}

async::Task<Overlays::Side> Overlays::settle_live() {
    co_await engine_.vm(vm_).read_disks();
    for (const PlannedOverlay& overlay : kept()) {
        const bool active = engine_.vm(vm_).find_disk(path_of(overlay)) != nullptr;
        // One transaction: if one disk is on its overlay, all are.
        if (active) co_return Side::after_switch;
    }
    co_return Side::before_switch;
}

/// The QEMU is gone. An overlay with data in it was switched to; overlays that are all empty make no
/// difference, so the snapshot that nobody was told of is undone.
async::Task<Overlays::Side> Overlays::settle_down() {
    for (const PlannedOverlay& overlay : kept()) {
        const OverlayFile names = file_of(overlay);
        auto work = [names] { return overlay_is_pristine(names); };
        const bool pristine = co_await engine_.files().run(std::move(work));
        if (!pristine) co_return Side::after_switch;
    }
    co_return Side::before_switch;
}

}  // namespace volchain::storage
