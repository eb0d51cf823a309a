// SPDX-License-Identifier: MIT
#include "storage/vms/adoption.h"

#include <algorithm>
#include <filesystem>

#include "base/log.h"
#include "base/text.h"
#include "storage/exports/export_device.h"
#include "storage/vms/disk_snapshots.h"

namespace volchain::storage {
namespace {

std::optional<VolumeFormat> format_of(const LiveLayer& layer) {
    // A disk that stands on the file itself, without a format node, is raw too.
    if (layer.driver == "file") return VolumeFormat::raw;
    return from_word<VolumeFormat>(layer.driver);
}

/// Why a layer cannot be a volume; empty where it can.
std::string unfit(const LiveLayer& layer) {
    if (layer.path.empty()) return fmt::format("it is no file of this host (driver {})", quote(layer.driver));
    if (!layer.oddity.empty()) return layer.oddity;
    if (!format_of(layer)) return fmt::format("format {} is not supported", quote(layer.driver));
    if (!valid_utf8(layer.path)) return "the name of its file is not UTF-8";
    return {};
}

/// Builds the records of one VM's adoption.
class Adopter {
  public:
    Adopter(const Catalog& catalog, const VmRecord& vm) : catalog_(catalog), vm_(vm) {
        for (const auto& [id, pool] : catalog.pools()) {
            pool_names_.push_back(pool.name);
            known_pools_.emplace_back(pool.path, id);
        }
        for (const auto& [id, disk] : catalog.disks()) disk_names_.push_back(disk.name);
        const std::set<std::string> claimed = catalog.claimed_disk_names();
        disk_names_.insert(disk_names_.end(), claimed.begin(), claimed.end());
        snapshot_names_ = snapshot_names(catalog, vm.id);
    }

    void take(const LiveDisk& live) {
        if (!unfit(live.active()).empty()) return;
        if (const VolumeRecord* volume = catalog_.find_volume(live.active().path))
            take_known(live, *volume);
        else
            take_unknown(live);
    }

    [[nodiscard]] Adoption result() && { return std::move(adoption_); }

  private:
    /// A floating disk that is in this VM: it belongs to it. Its options are what QEMU has now.
    void take_known(const LiveDisk& live, const VolumeRecord& volume) {
        DiskRecord disk = catalog_.disk(volume.disk);
        if (disk.active != volume.id || (disk.vm && disk.vm != vm_.id)) return;
        const DiskRecord before = disk;
        take_in(disk);
        disk.target = live.target;
        disk.shareable = live.shareable;
        update_options(disk, live);
        if (before.vm != disk.vm || before.target != disk.target || before.shareable != disk.shareable ||
            before.node_options != disk.node_options)
            adoption_.changes.put(disk);
    }

    /// The disk is the VM's, and with it what there is of snapshots of it.
    void take_in(DiskRecord& disk) {
        if (catalog_.has({ObjectKind::disk, disk.id}) && disk.vm.nil())
            snapshots_come_along(catalog_, disk.id, vm_.id, snapshot_names_, adoption_.changes);
        disk.vm = vm_.id;
    }

    static void update_options(DiskRecord& disk, const LiveDisk& live) {
        qmp::NodeOptions options = live.options;
        if (!live.options_known && !disk.node_options.empty()) {
            const JsonReader stored(disk.node_options, "disk options", ErrorCode::internal);
            const qmp::NodeOptions known = qmp::NodeOptions::parse(stored);
            options.aio = known.aio;
            options.discard = known.discard;
        }
        disk.node_options = options.json();
    }

    /// A new disk, or further layers that somebody else put over a disk of ours.
    void take_unknown(const LiveDisk& live) {
        if (taken(live.active().path)) return;  // two devices on one file
        DiskRecord disk;
        if (const VolumeRecord* below = first_known(live); below != nullptr && active_here(*below)) {
            disk = catalog_.disk(below->disk);
            log().notice("disk {} has layers that were not made by volchain; they become part of it",
                         quote(disk.name));
        } else {
            disk.id = Uuid::make();
            disk.name = free_name(vm_.name + "-" + live.target, disk_names_);
            disk_names_.push_back(disk.name);
        }
        take_in(disk);
        disk.target = live.target;
        disk.shareable = live.shareable;
        update_options(disk, live);
        disk.active = add_layers(live, disk.id);
        adoption_.changes.put(disk);
    }

    [[nodiscard]] const VolumeRecord* first_known(const LiveDisk& live) const {
        for (const LiveLayer& layer : live.layers)
            if (const VolumeRecord* volume = catalog_.find_volume(layer.path)) return volume;
        return nullptr;
    }

    [[nodiscard]] bool active_here(const VolumeRecord& volume) const {
        const DiskRecord& disk = catalog_.disk(volume.disk);
        return disk.active == volume.id && (disk.vm.nil() || disk.vm == vm_.id);
    }

    /// Volumes for the layers from the top down to the first that is known or unfit; the active one's id.
    Uuid add_layers(const LiveDisk& live, const Uuid& disk) {
        Uuid active;
        for (const LiveLayer& layer : live.layers) {
            if (catalog_.find_volume(layer.path) != nullptr || taken(layer.path)) break;
            if (const std::string why = unfit(layer); !why.empty()) {
                log().notice("the chain of {} ends for volchain at node {}: {}", quote(live.device),
                             quote(layer.node), why);
                break;
            }
            const auto [pool, file] = place(layer.path);
            VolumeRecord volume{Uuid::make(), disk, pool, file, *format_of(layer), now()};
            if (active.nil()) active = volume.id;
            paths_.push_back(layer.path);
            adoption_.changes.put(volume);
            adoption_.volumes.push_back(std::move(volume));
        }
        return active;
    }

    /// The same file below two disks of the VM (a common base): it is the first one's.
    [[nodiscard]] bool taken(const std::string& path) const {
        return std::find(paths_.begin(), paths_.end(), path) != paths_.end();
    }

    /// The deepest pool around the file; a new one for its directory where there is none.
    Catalog::Place place(const std::string& path) {
        const std::filesystem::path file(path);
        const std::string directory = file.parent_path().string();
        for (const auto& [pool_path, id] : known_pools_)
            if (pool_path == directory) return use_pool(id, pool_path, file.filename().string());
        if (const auto found = catalog_.place(path))
            return use_pool(found->pool, catalog_.pool(found->pool).path, found->file);
        PoolRecord pool{Uuid::make(), free_name(file.parent_path().filename().string(), pool_names_),
                        directory};
        pool_names_.push_back(pool.name);
        known_pools_.emplace_back(pool.path, pool.id);
        adoption_.changes.put(pool);
        return use_pool(pool.id, pool.path, file.filename().string());
    }

    Catalog::Place use_pool(const Uuid& pool, const std::string& path, const std::string& file) {
        adoption_.pool_paths[pool] = path;
        return {pool, file};
    }

    const Catalog& catalog_;
    const VmRecord& vm_;
    std::vector<std::string> pool_names_;
    std::vector<std::string> disk_names_;
    std::vector<std::string> snapshot_names_;  ///< of the VM's
    std::vector<std::pair<std::string, Uuid>> known_pools_;
    std::vector<std::string> paths_;
    Adoption adoption_;
};

bool is_variable_store(const VmRecord& vm, const LiveDisk& live) {
    return std::any_of(vm.nvram.begin(), vm.nvram.end(),
                       [&](const NvramStore& store) { return store.path == live.active().path; });
}

std::string why_unmanaged(const Catalog& catalog, const Uuid& vm, const LiveDisk& live) {
    if (std::string why = unfit(live.active()); !why.empty()) return why;
    const VolumeRecord* const volume = catalog.find_volume(live.active().path);
    if (volume == nullptr) return "it was not adopted";
    const DiskRecord& disk = catalog.disk(volume->disk);
    if (disk.active != volume->id)
        return fmt::format("it runs on {}, but the active volume of {} is {}", quote(live.active().path),
                           catalog.describe({ObjectKind::disk, disk.id}),
                           quote(catalog.path(catalog.volume(disk.active))));
    if (disk.vm != vm)
        return fmt::format("{} belongs to {}", catalog.describe({ObjectKind::disk, disk.id}),
                           disk.vm.nil() ? "no VM" : catalog.describe({ObjectKind::vm, disk.vm}));
    return {};
}

}  // namespace

std::vector<UnmanagedDevice> unmanaged_devices(const Catalog& catalog, const Uuid& vm,
                                               const std::vector<LiveDisk>& disks) {
    const VmRecord record = catalog.has({ObjectKind::vm, vm}) ? catalog.vm(vm) : VmRecord{};
    std::vector<UnmanagedDevice> unmanaged;
    for (const LiveDisk& live : disks)
        if (std::string why = why_unmanaged(catalog, vm, live);
            !why.empty() && !is_export_device(catalog, vm, live.device) && !is_variable_store(record, live))
            unmanaged.push_back({live.device, std::move(why)});
    return unmanaged;
}

Adoption adopt(const Catalog& catalog, const VmRecord& vm, const std::vector<LiveDisk>& disks) {
    Adopter adopter(catalog, vm);
    for (const LiveDisk& live : disks)
        if (!is_export_device(catalog, vm.id, live.device) && !is_variable_store(vm, live))
            adopter.take(live);
    return std::move(adopter).result();
}

std::string free_name(const std::string& wanted, const std::vector<std::string>& taken) {
    // QOM paths ("/machine/peripheral-anon/device[2]") and foreign bytes do not make names as they are.
    std::string base = valid_utf8(wanted) ? wanted : file_name_part(wanted);
    std::replace_if(
        base.begin(), base.end(),
        [](char c) { return c == '/' || static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }, '-');
    while (!base.empty() && (base.front() == '-' || base.front() == ' ')) base.erase(0, 1);
    while (!base.empty() && base.back() == ' ') base.pop_back();
    if (base.empty()) base = "unnamed";
    std::string name = clipped(base, max_name_bytes - 16);
    for (int number = 2; std::find(taken.begin(), taken.end(), name) != taken.end(); ++number)
        name = fmt::format("{}-{}", clipped(base, max_name_bytes - 16), number);
    return name;
}

}  // namespace volchain::storage
