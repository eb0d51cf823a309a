// SPDX-License-Identifier: MIT
#include "storage/checks/disk_view.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

#include "base/file.h"
#include "base/text.h"
#include "qcow2/identify.h"
#include "qmp/image_lock.h"

namespace volchain::storage {
namespace {

/// `backing`: a file that is no volume; empty: there is none to be looked at.
VolumeLook look_at_file(const std::string& pool, const std::string& file, VolumeFormat format,
                        const std::string& backing) {
    VolumeLook look;
    struct stat status {};
    look.backing_file = backing.empty() || ::stat(backing.c_str(), &status) == 0;
    try {
        const UniqueFd directory = open_directory(pool);
        const UniqueFd image = open_beneath(directory.get(), file, O_RDONLY);
        if (::fstat(image.get(), &status) < 0 || !S_ISREG(status.st_mode)) return look;
        if (format == VolumeFormat::raw)
            if (const auto marks = qcow2::identify(qcow2::FileSource(image.get())))
                look.carries = qcow2::name(*marks);
        look.written = look.used = true;  // where nobody can tell
        look.written = qmp::is_in_use_for_writing(image.get());
        look.used = qmp::refuses_writer(image.get());
    } catch (const Error&) {
        // That it cannot be read is among its facts.
    }
    return look;
}

/// A backing file that is no volume of ours; empty where there is none, or its name is no plain path.
std::string foreign_backing(const Catalog& catalog, const Uuid& volume) {
    const auto& reference = catalog.facts(volume).backing;
    return reference && catalog.backing(volume).nil() ? reference->path : std::string();
}

async::Task<VolumeLook> look_at_volume(Engine& engine, Uuid id) {
    const Catalog& catalog = engine.catalog();
    const VolumeRecord& volume = catalog.volume(id);
    auto work = [pool = catalog.pool(volume.pool).path, file = volume.file, format = volume.format,
                 backing = foreign_backing(catalog, id)] {
        return look_at_file(pool, file, format, backing);
    };
    co_return co_await engine.files(volume.pool).run(std::move(work));
}

/// Those of these files that are not there. Blocking.
std::set<std::string> missing_of(const std::vector<std::string>& paths) {
    std::set<std::string> missing;
    for (const std::string& path : paths) {
        struct stat status {};
        if (::lstat(path.c_str(), &status) < 0 && errno == ENOENT) missing.insert(path);
    }
    return missing;
}

async::Task<std::set<std::string>> look_at_snapshot_files(Engine& engine, Uuid disk) {
    const Catalog& catalog = engine.catalog();
    std::vector<std::string> paths;
    for (const auto& [id, snapshot] : catalog.snapshots())
        for (const SnapshotDisk& part : snapshot.disks)
            if (part.disk == disk)
                for (const SnapshotFile& file : snapshot.files)
                    if (engine.pool_status(file.pool).state != PoolState::missing)
                        paths.push_back(catalog.pool(file.pool).path + "/" + file.file);
    auto work = [paths = std::move(paths)] { return missing_of(paths); };
    co_return co_await engine.files().run(std::move(work));
}

void collect_words(const Json& plan, std::set<std::string>& words) {
    if (plan.is_string()) words.insert(plan.get<std::string>());
    if (plan.is_structured())
        for (const Json& part : plan) collect_words(part, words);
}

void look_at_jobs(const Engine& engine, const Uuid& own_job, DiskView& view) {
    for (const RestoredDisk& restored : engine.catalog().restored_disks()) view.planned.insert(restored.file);
    for (const Uuid& id : engine.jobs().unfinished()) {
        if (id == own_job) continue;
        // The live one's plan is ahead of the catalog's.
        const JobPtr live = engine.jobs().find(id);
        const JobRecord& record = live ? live->record() : engine.catalog().job(id);
        collect_words(record.plan, view.planned);
        view.planned.insert(record.subject.id.str());
        view.jobs_since = std::min(view.jobs_since.value_or(record.started), record.started);
    }
}

/// All of the disk's volumes, and what they stand on.
std::vector<Uuid> layers_of_disk(const Catalog& catalog, const Uuid& disk) {
    std::set<Uuid> layers;
    for (const Uuid& volume : catalog.volumes_of_disk(disk))
        for (const Uuid& layer : catalog.chain(volume)) layers.insert(layer);
    return {layers.begin(), layers.end()};
}

async::Task<DiskInQemu> ask_qemu(Engine& engine, Uuid vm) {
    DiskInQemu found;
    co_await engine.vm(vm).read_disks();
    const std::shared_ptr<qmp::Session> session = engine.vm(vm).session();
    const async::Deadline soon = async::after(engine.settings().command_timeout);
    found.disks = engine.vm(vm).disks();
    found.graph = co_await qmp::read_block_graph(session, soon);
    const Json jobs = co_await session->execute("query-jobs", Json::object(), soon);
    for (const JsonReader& job : JsonReader(jobs, "query-jobs", ErrorCode::qemu_failed).elements())
        found.jobs.push_back(job.at("id").string());
    found.running = true;
    co_return found;
}

async::Task<DiskInQemu> look_into_qemu(Engine& engine, Uuid vm) {
    DiskInQemu found;
    if (vm.nil()) co_return found;
    std::exception_ptr failure;
    const async::Deadline soon = async::after(engine.settings().greeting_timeout * 2);
    co_await async::keep_failure(engine.vm(vm).look_now(soon), failure);
    if (!failure && engine.vm(vm).down()) co_return found;
    failure = nullptr;
    co_await async::keep_result(ask_qemu(engine, vm), found, failure);
    if (failure) found.unknown = to_error(failure).what();
    co_return found;
}

}  // namespace

const LiveDisk* DiskInQemu::disk_on(const std::string& active_path) const {
    const auto found = std::find_if(disks.begin(), disks.end(),
                                    [&](const LiveDisk& disk) { return disk.active().path == active_path; });
    return found == disks.end() ? nullptr : &*found;
}

const qmp::Node* DiskInQemu::layer(const std::string& path) const {
    for (const LiveDisk& disk : disks)
        for (const LiveLayer& layer : disk.layers)
            if (layer.path == path) return graph.find(layer.node);
    return nullptr;
}

const VolumeLook& DiskView::look(const Uuid& volume) const {
    static const VolumeLook none;
    const auto found = looks.find(volume);
    return found == looks.end() ? none : found->second;
}

PoolState DiskView::pool(const Uuid& id) const {
    const auto found = pools.find(id);
    return found == pools.end() ? PoolState::missing : found->second;
}

Uuid DiskView::running_on(const Catalog& catalog) const {
    for (const LiveDisk& live : qemu.disks) {
        const VolumeRecord* const volume = catalog.find_volume(live.active().path);
        if (volume != nullptr && volume->disk == disk) return volume->id;
    }
    return {};
}

async::Task<DiskView> look_at_disk(Engine& engine, Uuid disk, Uuid job) {
    const Catalog& catalog = engine.catalog();
    DiskView view(disk);
    const std::vector<Uuid> volumes = catalog.volumes_of_disk(disk);
    for (const Uuid& volume : volumes) {
        const Uuid pool = catalog.volume(volume).pool;
        if (view.pools.contains(pool)) continue;
        co_await engine.inspect_pool(pool, false);
        view.pools[pool] = engine.pool_status(pool).state;
    }
    co_await engine.inspect_volumes(volumes);
    co_await engine.inspect_volumes(layers_of_disk(catalog, disk));  // also what belongs to another disk
    view.qemu = co_await look_into_qemu(engine, catalog.disk(disk).vm);
    for (const Uuid& volume : volumes) {
        VolumeLook look = co_await look_at_volume(engine, volume);
        view.looks.emplace(volume, std::move(look));
    }
    view.missing_files = co_await look_at_snapshot_files(engine, disk);
    look_at_jobs(engine, job, view);
    co_return view;
}

bool others_readable(const Catalog& catalog, const Uuid& volume) {
    const std::vector<Uuid> all = catalog.volumes_of_disk(catalog.volume(volume).disk);
    return std::all_of(all.begin(), all.end(), [&](const Uuid& other) {
        return other == volume || catalog.facts(other).state == VolumeState::ok;
    });
}

std::string named_as(const Catalog& catalog, const Uuid& volume) {
    const DiskRecord& disk = catalog.disk(catalog.volume(volume).disk);
    std::vector<std::string> needs;
    if (disk.active == volume)
        needs.push_back("it is the active volume of " + catalog.describe({ObjectKind::disk, disk.id}));
    if (disk.former == volume)
        needs.emplace_back("it was the active volume before the preview that is shown");
    if (const std::string snapshots = snapshots_on(catalog, volume); !snapshots.empty())
        needs.push_back("it holds the state of " + snapshots);
    return joined(needs, ", ");
}

std::string needed_for(const Catalog& catalog, const Uuid& volume) {
    std::vector<std::string> needs;
    if (std::string named = named_as(catalog, volume); !named.empty()) needs.push_back(std::move(named));
    for (const Uuid& child : catalog.children(volume))
        needs.push_back(catalog.describe({ObjectKind::volume, child}) + " stands on it");
    return joined(needs, ", ");
}

std::string snapshots_on(const Catalog& catalog, const Uuid& volume) {
    std::vector<std::string> names;
    for (const auto& [id, snapshot] : catalog.snapshots())
        for (const SnapshotDisk& part : snapshot.disks)
            if (part.volume == volume) names.push_back(catalog.describe({ObjectKind::snapshot, id}));
    return joined(names, ", ");
}

}  // namespace volchain::storage
