// SPDX-License-Identifier: MIT
#include "daemon/volume_object.h"

#include <sys/stat.h>

#include "daemon/export_object.h"
#include "storage/merges/remove_volumes.h"
#include "storage/volumes/checksum_volume.h"
#include "storage/volumes/measure_volume.h"

namespace volchain::daemon {

using storage::ObjectKind;

bus::Interface<VolumeObject> VolumeObject::table() {
    bus::Interface<VolumeObject> table(interface_name(ObjectKind::volume), *this);
    table.method<&VolumeObject::commit>("Commit", bus::in("base", "options"), bus::out("job"))
        .method<&VolumeObject::merge>("Merge", bus::in("options"), bus::out("job"))
        .method<&VolumeObject::clone>("Clone", bus::in("name", "pool", "options"), bus::out("job"))
        .method<&VolumeObject::export_volume>("Export", bus::in("options"), bus::out("job"))
        .method<&VolumeObject::remove>("Delete", bus::in("options"), bus::out("job"))
        .method<&VolumeObject::map>("Map", bus::in("start", "length"), bus::out("extents"))
        .method<&VolumeObject::measure>("Measure", bus::in("options"), bus::out("required", "full"))
        .method<&VolumeObject::checksum>("Checksum", bus::in("options"), bus::out("job"))
        .property<&VolumeObject::id>("Id", bus::Change::never)
        .property<&VolumeObject::disk>("Disk", bus::Change::signalled)
        .property<&VolumeObject::pool>("Pool", bus::Change::signalled)
        .property<&VolumeObject::path>("Path", bus::Change::signalled)
        .property<&VolumeObject::format>("Format", bus::Change::signalled)
        .property<&VolumeObject::size>("SizeBytes", bus::Change::signalled)
        .property<&VolumeObject::allocated>("AllocatedBytes", bus::Change::silent)
        .property<&VolumeObject::backing>("Backing", bus::Change::signalled)
        .property<&VolumeObject::children>("Children", bus::Change::signalled)
        .property<&VolumeObject::depth>("Depth", bus::Change::signalled)
        .property<&VolumeObject::state>("State", bus::Change::signalled)
        .property<&VolumeObject::active>("Active", bus::Change::signalled)
        .property<&VolumeObject::cluster_size>("ClusterBytes", bus::Change::signalled)
        .property<&VolumeObject::bitmaps>("Bitmaps", bus::Change::signalled);
    return table;
}

async::Task<bus::ObjectPath> VolumeObject::commit(bus::Call call, Uuid id, bus::ObjectPath base,
                                                  bus::Options options) {
    storage::MergeOptions request;
    request.speed = options.take<std::uint64_t>("speed", 0);
    options.finish();
    const Uuid base_id = id_in(base, ObjectKind::volume, "base");
    request.owner_uid = co_await call.sender_uid();
    const Uuid job = co_await storage::commit_volume(engine_, id, base_id, request);
    co_return object_path(ObjectKind::job, job);
}

async::Task<bus::ObjectPath> VolumeObject::merge(bus::Call call, Uuid id, bus::Options options) {
    storage::MergeOptions request;
    request.speed = options.take<std::uint64_t>("speed", 0);
    const auto direction =
        take_word<storage::Direction>(options, "direction").value_or(storage::Direction::automatic);
    options.finish();
    request.owner_uid = co_await call.sender_uid();
    const Uuid job = co_await storage::merge_volume(engine_, id, direction, request);
    co_return object_path(ObjectKind::job, job);
}

async::Task<bus::ObjectPath> VolumeObject::clone(bus::Call call, Uuid id, std::string name,
                                                 bus::ObjectPath pool, bus::Options options) {
    storage::CloneRequest request({ObjectKind::volume, id}, std::move(name));
    request.thin = options.take<bool>("thin", false);
    request.shareable = storage::ShareablePolicy::copy;
    take_clone_options(options, request);
    options.finish();
    request.pool = id_in(pool, ObjectKind::pool, "pool");
    request.owner_uid = co_await call.sender_uid();
    const Uuid job = co_await storage::clone(engine_, std::move(request));
    co_return object_path(ObjectKind::job, job);
}

async::Task<bus::ObjectPath> VolumeObject::export_volume(bus::Call call, Uuid id, bus::Options options) {
    auto request = co_await take_export_request(bus_, call, std::move(options));
    const Uuid job = co_await storage::export_volume(engine_, id, std::move(request));
    co_return object_path(ObjectKind::job, job);
}

async::Task<bus::ObjectPath> VolumeObject::remove(bus::Call call, Uuid id, bus::Options options) {
    options.finish();
    storage::MergeOptions request;
    request.owner_uid = co_await call.sender_uid();
    const Uuid job = co_await storage::delete_volume(engine_, id, request);
    co_return object_path(ObjectKind::job, job);
}

async::Task<Extents> VolumeObject::map(bus::Call, Uuid id, std::uint64_t start, std::uint64_t length) {
    const auto extents = co_await storage::map_volume(engine_, id, start, length);
    co_return to_extents(extents);
}

async::Task<std::tuple<std::uint64_t, std::uint64_t>> VolumeObject::measure(bus::Call, Uuid id,
                                                                            bus::Options options) {
    storage::MeasureRequest request;
    request.format = take_word<storage::VolumeFormat>(options, "format").value_or(request.format);
    request.cluster_size = options.take<std::uint64_t>("cluster-size");
    request.extended_l2 = options.take<bool>("extended-l2", false);
    request.bitmaps = options.take<bool>("bitmaps", false);
    options.finish();
    const storage::Measured measured = co_await storage::measure_volume(engine_, id, request);
    co_return std::make_tuple(measured.required, measured.full);
}

async::Task<bus::ObjectPath> VolumeObject::checksum(bus::Call call, Uuid id, bus::Options options) {
    storage::ChecksumRequest request;
    request.algorithm =
        take_word<storage::ChecksumAlgorithm>(options, "algorithm").value_or(request.algorithm);
    request.speed = options.take<std::uint64_t>("speed", 0);
    options.finish();
    request.owner_uid = co_await call.sender_uid();
    const Uuid job = co_await storage::checksum_volume(engine_, id, request);
    co_return object_path(ObjectKind::job, job);
}

bus::ObjectPath VolumeObject::disk(Uuid id) const {
    return object_path(ObjectKind::disk, engine_.catalog().volume(id).disk);
}
bus::ObjectPath VolumeObject::pool(Uuid id) const {
    return object_path(ObjectKind::pool, engine_.catalog().volume(id).pool);
}
std::string VolumeObject::path(Uuid id) const {
    return engine_.catalog().path(engine_.catalog().volume(id));
}
std::string VolumeObject::format(Uuid id) const {
    return std::string(word(engine_.catalog().volume(id).format));
}
std::uint64_t VolumeObject::size(Uuid id) const {
    return engine_.catalog().facts(id).size;
}

std::uint64_t VolumeObject::allocated(Uuid id) const {
    // A look at a file of another machine could hang, and all of the daemon with it.
    if (!engine_.pool_status(engine_.catalog().volume(id).pool).local)
        return engine_.catalog().facts(id).allocated;
    struct stat status {};
    if (::lstat(path(id).c_str(), &status) < 0) return 0;
    return static_cast<std::uint64_t>(status.st_blocks) * 512;
}

bus::ObjectPath VolumeObject::backing(Uuid id) const {
    return object_path(ObjectKind::volume, engine_.catalog().backing(id));
}

std::vector<bus::ObjectPath> VolumeObject::children(Uuid id) const {
    return object_paths(ObjectKind::volume, engine_.catalog().children(id));
}

std::uint32_t VolumeObject::depth(Uuid id) const {
    return static_cast<std::uint32_t>(engine_.catalog().chain(id).size());
}

std::string VolumeObject::state(Uuid id) const {
    if (engine_.locks().held({ObjectKind::volume, id})) return "locked";
    if (engine_.catalog().volume(id).mark == storage::VolumeMark::illegal) return "illegal";
    return std::string(word(engine_.catalog().facts(id).state));
}

bool VolumeObject::active(Uuid id) const {
    const auto& catalog = engine_.catalog();
    return catalog.disk(catalog.volume(id).disk).active == id;
}

std::uint64_t VolumeObject::cluster_size(Uuid id) const {
    const auto& header = engine_.catalog().facts(id).header;
    return header ? header->cluster_size() : 0;
}

std::vector<std::tuple<std::string, std::uint64_t, std::uint64_t>> VolumeObject::bitmaps(Uuid id) const {
    std::vector<std::tuple<std::string, std::uint64_t, std::uint64_t>> all;
    // What a running QEMU has open for writing is in the image only when it is closed.
    if (const storage::LiveDisk* const disk = live_disk(id)) {
        for (const qmp::DirtyBitmap& bitmap : disk->active().bitmaps)
            if (bitmap.persistent)
                all.emplace_back(bitmap.name, bitmap.granularity,
                                 bitmap_in_use | (bitmap.recording ? bitmap_recording : 0U) |
                                     (bitmap.inconsistent ? bitmap_inconsistent : 0U));
        return all;
    }
    for (const qcow2::Bitmap& bitmap : engine_.catalog().facts(id).bitmaps)
        all.emplace_back(bitmap.name, bitmap.granularity,
                         (bitmap.recording ? bitmap_recording : 0U) |
                             (bitmap.in_use ? bitmap_in_use | bitmap_inconsistent : 0U));
    return all;
}

const storage::LiveDisk* VolumeObject::live_disk(const Uuid& id) const {
    const auto& catalog = engine_.catalog();
    const storage::DiskRecord& disk = catalog.disk(catalog.volume(id).disk);
    if (disk.active != id || disk.vm.nil() || !engine_.vm(disk.vm).live()) return nullptr;
    return engine_.vm(disk.vm).find_disk(path(id));
}

}  // namespace volchain::daemon
