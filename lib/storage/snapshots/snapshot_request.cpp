// SPDX-License-Identifier: MIT
#include "storage/snapshots/snapshot_request.h"

#include <algorithm>
#include <set>

#include "base/text.h"
#include "storage/snapshots/snapshots.h"
#include "storage/vms/disk_snapshots.h"

namespace volchain::storage {
namespace {

std::string time_name(const Catalog& catalog, const Uuid& vm) {
    return free_name(format_utc(now()), snapshot_names(catalog, vm));
}

/// The one disk of a request that is of no VM.
Uuid floating_disk(const Catalog& catalog, const SnapshotRequest& request) {
    const Uuid disk = request.disks.value().front();
    if (const Uuid vm = catalog.disk(disk).vm)
        throw Error(ErrorCode::busy, "{} has just been attached to {}",
                    catalog.describe({ObjectKind::disk, disk}), catalog.describe({ObjectKind::vm, vm}));
    return disk;
}

}  // namespace

std::vector<Uuid> chosen_disks(const Catalog& catalog, const SnapshotRequest& request) {
    if (request.vm.nil()) return {floating_disk(catalog, request)};
    const std::vector<Uuid> of_vm = catalog.disks_of_vm(request.vm);
    const auto check = [&](const Uuid& disk, std::string_view option) {
        if (std::find(of_vm.begin(), of_vm.end(), disk) == of_vm.end())
            throw Error(ErrorCode::invalid_argument, "option '{}': {} is not a disk of {}", option,
                        catalog.describe({ObjectKind::disk, disk}),
                        catalog.describe({ObjectKind::vm, request.vm}));
    };
    for (const Uuid& disk : request.exclude) check(disk, "exclude");
    std::set<Uuid> chosen(of_vm.begin(), of_vm.end());
    if (request.disks) {
        for (const Uuid& disk : *request.disks) check(disk, "disks");
        chosen = {request.disks->begin(), request.disks->end()};
    }
    for (const Uuid& disk : request.exclude) chosen.erase(disk);
    if (chosen.empty())
        throw Error(ErrorCode::invalid_argument, "{}: no disk is left to take a snapshot of",
                    catalog.describe({ObjectKind::vm, request.vm}));
    return {chosen.begin(), chosen.end()};
}

void check_memory_request(const Catalog& catalog, const SnapshotRequest& request,
                          const std::vector<Uuid>& disks, bool live) {
    if (!request.memory) return;
    const auto refuse = [](std::string_view why) {
        throw Error(ErrorCode::invalid_argument, "option 'memory': {}", why);
    };
    if (request.vm.nil()) refuse("a disk that floats has no VM");
    if (disks.size() != catalog.disks_of_vm(request.vm).size())
        refuse(
            "all disks of the VM have to be in the snapshot: a guest that goes on would find others changed");
    if (request.on_disk_failure == OnDiskFailure::exclude)
        refuse("no disk may be left out, so 'on-disk-failure' must not be 'exclude'");
    if (request.quiesce == QuiesceMode::require)
        refuse("the guest goes on from its memory and is not frozen, so 'quiesce' must not be 'require'");
    if (!live)
        throw Error(ErrorCode::not_running, "{} is down: it has no memory to be kept",
                    catalog.describe({ObjectKind::vm, request.vm}));
}

std::optional<Error> unfit(Engine& engine, const Uuid& vm, const Uuid& disk, bool live) {
    const Catalog& catalog = engine.catalog();
    const DiskRecord& record = catalog.disk(disk);
    const VolumeFacts& facts = catalog.facts(record.active);
    if (auto refusal = not_to_be_covered(record)) return refusal;
    if (live && engine.vm(vm).find_disk(catalog.path(catalog.volume(record.active))) == nullptr)
        return Error(ErrorCode::not_running,
                     "the running VM does not have it, or runs on another volume of it");
    if (facts.state != VolumeState::ok)
        return Error(facts.state == VolumeState::missing ? ErrorCode::broken_chain : ErrorCode::corrupt_image,
                     "its active volume {} is {}: {}", quote(catalog.path(catalog.volume(record.active))),
                     word(facts.state), facts.problem);
    return std::nullopt;
}

std::vector<ExcludedDisk> strangers(Engine& engine, const SnapshotRequest& request, bool live) {
    std::vector<ExcludedDisk> excluded;
    if (!live || request.disks) return excluded;
    for (const auto& [device, why] : engine.unmanaged(request.vm)) {
        if (request.on_disk_failure == OnDiskFailure::abort)
            throw Error(ErrorCode::unsupported,
                        "{}: device {} cannot take part: {}; name the disks that are wanted with 'disks', or "
                        "leave it "
                        "out with on-disk-failure=exclude",
                        engine.catalog().describe({ObjectKind::vm, request.vm}), quote(device), why);
        excluded.push_back({Uuid{}, fmt::format("device {}: {}", quote(device), why)});
    }
    return excluded;
}

SnapshotRecord new_snapshot(Engine& engine, const SnapshotRequest& request) {
    const Catalog& catalog = engine.catalog();
    SnapshotRecord snapshot;
    snapshot.id = Uuid::make();
    snapshot.vm = request.vm;
    snapshot.name = request.name.empty() ? time_name(catalog, request.vm) : request.name;
    snapshot.description = request.description;
    if (request.schedule) snapshot.origin = "schedule";
    snapshot.schedule = request.schedule;
    snapshot.created = now();
    snapshot.consistency = Consistency::crash;
    snapshot.status = SnapshotStatus::creating;
    if (request.vm.nil()) {
        snapshot.parent = current_floating_snapshot(catalog, floating_disk(catalog, request));
        snapshot.vm_state = VmState::shutoff;
        return snapshot;
    }
    const VmRecord& vm = catalog.vm(request.vm);
    snapshot.parent = vm.current_snapshot;
    snapshot.vm_state = engine.vm(request.vm).state();
    snapshot.config = vm.config;
    snapshot.config_type = vm.config_type;
    return snapshot;
}

void check_new_name(const Catalog& catalog, const SnapshotRequest& request) {
    if (request.name.empty()) return;
    if (request.vm.nil())
        check_floating_snapshot_name(catalog, floating_disk(catalog, request), request.name);
    else
        check_snapshot_name(catalog, request.vm, request.name);
}

}  // namespace volchain::storage
