// SPDX-License-Identifier: MIT
#include "storage/snapshots/clone.h"

#include <algorithm>
#include <memory>

#include "base/text.h"
#include "storage/images/overlay_file.h"
#include "storage/jobs/presence.h"
#include "storage/vms/adoption.h"
#include "storage/vms/vms.h"
#include "storage/volumes/copy_room.h"

namespace volchain::storage {
namespace {

/// One disk of the clone. What recovery needs is the file.
struct ClonedDisk {
    Uuid source;
    Uuid source_disk;
    Uuid disk;
    Uuid volume;
    Uuid pool;
    std::string file;
    std::string name;
    std::string target;
    ImageOptions image{0};
};

/// A class with a constructor, so that it may be handed to coroutines.
class ClonePlan {
  public:
    ClonePlan() = default;

    Uuid vm;  ///< nil: none is made
    std::string name;
    bool thin = false;
    std::vector<ClonedDisk> disks;
    std::vector<std::string> left_out;

    [[nodiscard]] Json json(const Catalog& catalog) const {
        Json files = Json::array();
        for (const ClonedDisk& disk : disks)
            files.push_back({{"pool", catalog.pool(disk.pool).path}, {"file", disk.file}});
        return Json{{"files", std::move(files)}};
    }
};

std::vector<NewFile> files_in(const JobRecord& job) {
    const JsonReader plan(job.plan, "plan of job " + job.id.str(), ErrorCode::internal);
    std::vector<NewFile> files;
    for (const JsonReader& file : plan.at("files").elements())
        files.emplace_back(file.at("pool").string(), file.at("file").string());
    return files;
}

/// The volumes that the clone is made from, and all that they stand on.
std::vector<Uuid> volumes_read(const Catalog& catalog, const ClonePlan& plan) {
    std::vector<Uuid> volumes;
    for (const ClonedDisk& disk : plan.disks) {
        const std::vector<Uuid> chain = catalog.chain(disk.source);
        volumes.insert(volumes.end(), chain.begin(), chain.end());
    }
    return volumes;
}

/// Kept until the clone is there, or given up.
class Names {
  public:
    Names(Catalog& catalog, const ClonePlan& plan) {
        if (plan.vm) vm_.emplace(catalog, plan.name);
        for (const ClonedDisk& disk : plan.disks)
            disks_.push_back(std::make_unique<Catalog::DiskNameClaim>(catalog, disk.name));
    }

  private:
    std::optional<Catalog::VmNameClaim> vm_;
    std::vector<std::unique_ptr<Catalog::DiskNameClaim>> disks_;
};

class Clone {
  public:
    Clone(Engine& engine, JobPtr job, ClonePlan plan, Holds::Hold hold)
        : engine_(engine), job_(std::move(job)), plan_(std::move(plan)), hold_(std::move(hold)) {}

    async::Task<> run(std::uint64_t speed) {
        job_->start_speed(speed);
        std::exception_ptr failure;
        co_await async::keep_failure(forward(), failure);
        if (!failure || finished(job_->record().state)) co_return;
        if (attended_) co_await engine_.neglect(plan_.vm);
        co_await undo(to_error(failure));
    }

    /// Also after a crash: nobody knows of the files yet.
    async::Task<> undo(Error reason) {
        co_await job_->begin_undo();
        std::vector<NewFile> files = files_in(job_->record());
        reason = co_await take_back_files(engine_, std::move(files), std::move(reason));
        hold_.release();
        co_await job_->fail(Changes{}, std::move(reason));
    }

  private:
    [[nodiscard]] const Catalog& catalog() const noexcept { return engine_.catalog(); }
    [[nodiscard]] NewFile file_of(const ClonedDisk& disk) const {
        return {catalog().pool(disk.pool).path, disk.file};
    }

    async::Task<> forward() {
        const std::string first = plan_.thin ? "overlays" : "copy";
        co_await job_->step(first);
        if (plan_.thin)
            co_await make_overlays();
        else
            co_await copy();
        co_await job_->step("record");
        co_await record();
    }

    async::Task<> copy() {
        std::vector<CopyOrder> orders;
        for (const ClonedDisk& disk : plan_.disks)
            orders.emplace_back(disk.source, file_of(disk), disk.image);
        co_await check_room_for_copies(engine_, std::move(orders));
        std::uint64_t total = 0;
        for (const ClonedDisk& disk : plan_.disks) total += copy_cost(catalog(), disk.source);
        std::uint64_t done = 0;
        job_->progress(done, total);
        for (std::size_t index = 0; index < plan_.disks.size(); ++index) {
            const ClonedDisk& disk = plan_.disks[index];
            CopyOrder order(disk.source, file_of(disk), disk.image);
            const bool linked = co_await copy_volume(engine_, job_, std::move(order), done, total);
            if (linked) ++reflinked_;
            done += copy_cost(catalog(), plan_.disks[index].source);
            job_->progress(done, total);
        }
    }

    async::Task<> make_overlays() {
        for (std::size_t index = 0; index < plan_.disks.size(); ++index) {
            const ClonedDisk& disk = plan_.disks[index];
            const VolumeRecord& parent = catalog().volume(disk.source);
            OverlayFile overlay(catalog().pool(parent.pool).path, parent.file, parent.format, disk.file);
            auto work = [overlay = std::move(overlay)] { (void)create_overlay_file(overlay); };
            co_await engine_.files().run(std::move(work));
            job_->throw_if_cancelled();
        }
    }

    /// The new images, read as any other, are what is recorded.
    async::Task<std::vector<VolumeFacts>> look() {
        std::vector<VolumeFacts> all;
        for (std::size_t index = 0; index < plan_.disks.size(); ++index) {
            const ClonedDisk& disk = plan_.disks[index];
            auto work = [file = file_of(disk), format = disk.image.format] {
                return inspect_image(file.pool, file.file, format);
            };
            VolumeFacts facts = co_await engine_.files().run(std::move(work));
            const ClonedDisk& same = plan_.disks[index];
            if (facts.state != VolumeState::ok || facts.size != same.image.size)
                throw Error(ErrorCode::qemu_failed, "the new image {} is not what it should be: {}",
                            quote(file_of(same).path()), facts.problem);
            all.push_back(std::move(facts));
        }
        co_return all;
    }

    async::Task<> record() {
        std::vector<VolumeFacts> facts = co_await look();
        Changes changes;
        Json result;
        if (plan_.vm) {
            VmRecord vm = new_vm();
            engine_.attend(vm).start();
            attended_ = true;
            result["vm"] = object_json({ObjectKind::vm, vm.id});
            changes.put(std::move(vm)).put(ManifestStale{plan_.vm, true});
        }
        result["disks"] = Json::array();
        for (std::size_t index = 0; index < plan_.disks.size(); ++index) {
            const ClonedDisk& disk = plan_.disks[index];
            changes.put(new_disk(disk));
            changes.put(VolumeRecord{disk.volume, disk.disk, disk.pool, disk.file, disk.image.format, now()});
            engine_.catalog().set_facts(disk.volume, std::move(facts[index]));
            result["disks"].push_back(object_json({ObjectKind::disk, disk.disk}));
        }
        if (!plan_.left_out.empty()) result["left-out"] = plan_.left_out;
        if (!plan_.thin) result["reflinked"] = reflinked_;
        for (const std::string& what : plan_.left_out) job_->log().notice("not in the clone: {}", what);
        job_->no_return();
        hold_.release();
        co_await job_->succeed(std::move(changes), std::move(result));
        engine_.write_manifests();
    }

    [[nodiscard]] VmRecord new_vm() const {
        const SnapshotRecord& snapshot = catalog().snapshot(job_->record().subject.id);
        VmRecord vm;
        vm.id = plan_.vm;
        vm.name = plan_.name;
        vm.config = snapshot.config;
        vm.config_type = snapshot.config_type;
        return vm;
    }

    [[nodiscard]] DiskRecord new_disk(const ClonedDisk& disk) const {
        DiskRecord record;
        record.id = disk.disk;
        record.name = disk.name;
        record.vm = plan_.vm;
        record.target = disk.target;
        record.active = disk.volume;
        if (catalog().has({ObjectKind::disk, disk.source_disk}))
            record.node_options = catalog().disk(disk.source_disk).node_options;
        return record;
    }

    Engine& engine_;
    JobPtr job_;
    ClonePlan plan_;
    Holds::Hold hold_;
    std::uint64_t reflinked_ = 0;
    bool attended_ = false;
};

async::Task<> run_clone(Engine& engine, JobPtr job, ClonePlan plan, Holds::Hold hold, std::uint64_t speed) {
    Clone operation(engine, std::move(job), std::move(plan), std::move(hold));
    co_await operation.run(speed);
}

// --- what is asked for -------------------------------------------------------------------------------------

/// What the snapshot holds, or the one volume.
std::vector<SnapshotDisk> parts_of(const Catalog& catalog, const ObjectId& source) {
    if (source.kind == ObjectKind::volume) return {SnapshotDisk{catalog.volume(source.id).disk, source.id}};
    const SnapshotRecord& snapshot = catalog.snapshot(source.id);
    if (snapshot.status == SnapshotStatus::ok || snapshot.status == SnapshotStatus::partial)
        return snapshot.disks;
    const ErrorCode code =
        snapshot.status == SnapshotStatus::failed ? ErrorCode::broken_chain : ErrorCode::busy;
    throw Error(code, "{} is {}", catalog.describe(source), word(snapshot.status));
}

/// It must be whole.
void check_source(const Catalog& catalog, const SnapshotDisk& part, bool thin) {
    if (thin && catalog.disk(part.disk).active == part.volume)
        throw Error(ErrorCode::in_use,
                    "{} is the active volume of {}; take a snapshot of that first: a thin clone stands on "
                    "what nobody writes to",
                    catalog.describe({ObjectKind::volume, part.volume}),
                    catalog.describe({ObjectKind::disk, part.disk}));

    for (const Uuid& layer : catalog.chain(part.volume)) {
        const VolumeFacts& facts = catalog.facts(layer);
        if (facts.state != VolumeState::ok)
            throw Error(ErrorCode::broken_chain, "{} is {}: {}",
                        catalog.describe({ObjectKind::volume, layer}), word(facts.state), facts.problem);
        if (catalog.volume(layer).mark == VolumeMark::illegal)
            throw Error(ErrorCode::broken_chain,
                        "{} is in the middle of a merge that was broken off; delete its snapshot again to "
                        "finish that",
                        catalog.describe({ObjectKind::volume, layer}));
        if (facts.backing && catalog.backing(layer).nil())
            throw Error(ErrorCode::broken_chain, "the backing file {} of {} is no volume",
                        quote(facts.backing->name), catalog.describe({ObjectKind::volume, layer}));
    }
}

ImageOptions image_for(const Catalog& catalog, const CloneRequest& request, const Uuid& source) {
    const VolumeFacts& facts = catalog.facts(source);
    ImageOptions image = request.image;
    image.size = facts.size;
    if (request.thin) {
        image.format = VolumeFormat::qcow2;
        return image;
    }
    image.format = request.format.value_or(catalog.volume(source).format);
    if (image.format == VolumeFormat::qcow2 && facts.header && !image.cluster_size) {
        image.cluster_size = facts.header->cluster_size();
        image.extended_l2 = image.extended_l2 || facts.header->features.extended_l2;
    }
    check_image_options(image);
    return image;
}

Uuid pool_for(const Catalog& catalog, const CloneRequest& request, const SnapshotDisk& part) {
    const Uuid own = catalog.volume(part.volume).pool;
    const auto of_disk = request.pools.find(part.disk);
    const Uuid pool = of_disk != request.pools.end() ? of_disk->second : request.pool.value_or(own);
    (void)catalog.pool(pool);
    if (request.thin && pool != own)
        throw Error(ErrorCode::invalid_argument,
                    "a thin clone of {} has to be in its pool, {}: its overlay stands on the snapshot's file",
                    catalog.describe({ObjectKind::disk, part.disk}),
                    catalog.describe({ObjectKind::pool, own}));
    return pool;
}

/// Why the disk is left out, empty where it is not; throws where it can neither be taken nor be left out.
std::string reason_to_skip(const Catalog& catalog, const CloneRequest& request, const SnapshotDisk& part) {
    if (request.disks &&
        std::find(request.disks->begin(), request.disks->end(), part.disk) == request.disks->end())
        return "not among 'disks'";
    if (!catalog.disk(part.disk).shareable) return {};
    if (request.shareable == ShareablePolicy::skip) return "shareable";
    if (request.shareable == ShareablePolicy::copy) return {};
    throw Error(ErrorCode::invalid_argument,
                "{} is shareable: say with option 'shareable' whether to copy or to skip it",
                catalog.describe({ObjectKind::disk, part.disk}));
}

void check_disks_known(const Catalog& catalog, const CloneRequest& request,
                       const std::vector<SnapshotDisk>& parts) {
    const auto check = [&](const Uuid& disk, std::string_view option) {
        const bool known =
            std::any_of(parts.begin(), parts.end(), [&](const auto& part) { return part.disk == disk; });
        if (!known)
            throw Error(ErrorCode::invalid_argument, "option '{}': {} is not in {}", option,
                        catalog.describe({ObjectKind::disk, disk}), catalog.describe(request.source));
    };
    if (request.disks)
        for (const Uuid& disk : *request.disks) check(disk, "disks");
    for (const auto& [disk, pool] : request.pools) check(disk, "pools");
}

/// A disk of a VM is named for the VM and what it was there.
std::string name_of_copy(const Catalog& catalog, const CloneRequest& request, const ClonePlan& plan,
                         const DiskRecord& source) {
    if (plan.vm.nil()) return request.name;
    std::vector<std::string> taken;
    for (const auto& [id, disk] : catalog.disks()) taken.push_back(disk.name);
    for (const ClonedDisk& disk : plan.disks) taken.push_back(disk.name);
    for (const std::string& name : catalog.claimed_disk_names()) taken.push_back(name);
    const std::string& part = source.target.empty() ? source.name : source.target;
    return free_name(request.name + "-" + part, taken);
}

void add_disk(const Catalog& catalog, const CloneRequest& request, const SnapshotDisk& part,
              ClonePlan& plan) {
    check_source(catalog, part, request.thin);
    const DiskRecord& source = catalog.disk(part.disk);
    ClonedDisk disk;
    disk.source = part.volume;
    disk.source_disk = part.disk;
    disk.disk = Uuid::make();
    disk.volume = Uuid::make();
    disk.pool = pool_for(catalog, request, part);
    disk.image = image_for(catalog, request, part.volume);
    disk.name = name_of_copy(catalog, request, plan, source);
    disk.target = plan.vm ? source.target : std::string();
    disk.file = request.thin ? overlay_file_name(catalog.volume(part.volume).file, disk.name, disk.volume)
                             : image_file_name(disk.name, disk.volume, disk.image.format);
    plan.disks.push_back(std::move(disk));
}

ClonePlan plan_clone(const Catalog& catalog, const CloneRequest& request) {
    ClonePlan plan;
    plan.name = request.name;
    plan.thin = request.thin;
    const std::vector<SnapshotDisk> parts = parts_of(catalog, request.source);
    if (request.source.kind == ObjectKind::snapshot) {
        const SnapshotRecord& snapshot = catalog.snapshot(request.source.id);
        if (snapshot.vm) plan.vm = Uuid::make();
        if (memory_of(snapshot) != nullptr)
            plan.left_out.emplace_back("the memory: a clone is another machine, which boots");
        for (const SnapshotFile& file : snapshot.files)
            if (file.kind == SnapshotFileKind::nvram)
                plan.left_out.push_back(
                    fmt::format("the variable store {}: a clone is given one of its own", quote(file.store)));
        for (const ExcludedDisk& disk : snapshot.excluded) {
            const bool there = catalog.has({ObjectKind::disk, disk.disk});
            const std::string what =
                there ? catalog.describe({ObjectKind::disk, disk.disk}) : "disk " + disk.disk.str();
            plan.left_out.push_back(fmt::format("{}: not in the snapshot: {}", what, disk.why));
        }
    }
    check_disks_known(catalog, request, parts);
    for (const SnapshotDisk& part : parts) {
        const std::string why = reason_to_skip(catalog, request, part);
        if (why.empty())
            add_disk(catalog, request, part, plan);
        else
            plan.left_out.push_back(
                fmt::format("{}: {}", catalog.describe({ObjectKind::disk, part.disk}), why));
    }
    if (plan.disks.empty())
        throw Error(ErrorCode::invalid_argument, "nothing of {} is left to be cloned",
                    catalog.describe(request.source));
    return plan;
}

void check_thin_options(const CloneRequest& request) {
    if (!request.thin) return;
    if (request.format || request.image.preallocation != Preallocation::off || request.image.cluster_size ||
        request.image.extended_l2 || request.image.compression)
        throw Error(ErrorCode::invalid_argument,
                    "option 'thin' makes overlays like the images below: it does not go with options of an "
                    "image");
}

/// The headers of what is to be read, as they are now.
async::Task<> look_at_sources(Engine& engine, ObjectId source) {
    std::vector<Uuid> volumes;
    for (const SnapshotDisk& part : parts_of(engine.catalog(), source)) {
        const std::vector<Uuid> chain = engine.catalog().chain(part.volume);
        volumes.insert(volumes.end(), chain.begin(), chain.end());
    }
    co_await engine.inspect_volumes(std::move(volumes));
}

/// The disk whose active volume is to be cloned; nil where it is another volume.
Uuid written_disk(const Catalog& catalog, const ObjectId& source) {
    if (source.kind != ObjectKind::volume) return {};
    const Uuid disk = catalog.volume(source.id).disk;
    return catalog.disk(disk).active == source.id ? disk : Uuid{};
}

async::Task<> require_idle(Engine& engine, ObjectId source) {
    const Uuid disk = written_disk(engine.catalog(), source);
    if (disk.nil()) co_return;
    const Uuid vm = engine.catalog().disk(disk).vm;
    if (vm) co_await require_down(engine, vm, "cloning its active volume");
}

}  // namespace

async::Task<Uuid> clone(Engine& engine, CloneRequest request) {
    const Catalog& catalog = engine.catalog();
    check_name(request.source.kind == ObjectKind::volume ? "disk" : "VM", request.name);
    check_thin_options(request);
    co_await require_idle(engine, request.source);
    co_await look_at_sources(engine, request.source);
    ClonePlan plan = plan_clone(catalog, request);
    auto claims = std::make_shared<Names>(engine.catalog(), plan);

    const bool of_snapshot = request.source.kind == ObjectKind::snapshot;
    // What a disk that nobody runs writes to is cloned under the locks of that disk.
    const Uuid disk = written_disk(catalog, request.source);
    std::vector<ObjectId> locks;
    if (disk) locks = disk_and_vm(disk, catalog.disk(disk).vm);
    JobRequest job(of_snapshot ? "clone-snapshot" : "clone-volume", request.source, request.owner_uid);
    job.locks = std::move(locks);
    job.plan = plan.json(catalog);
    auto hold = std::make_shared<Holds::Hold>(engine.holds().take(
        volumes_read(catalog, plan),
        fmt::format("a clone of {}, {}", catalog.describe(request.source), quote(request.name))));
    Operation operation = [&engine, plan = std::move(plan), speed = request.speed, claims,
                           hold](JobPtr started) {
        return run_clone(engine, std::move(started), plan, std::move(*hold), speed);
    };
    co_return co_await engine.jobs().start(std::move(job), std::move(operation));
}

async::Task<> recover_clone(Engine& engine, JobPtr job) {
    const std::string step = job->record().step;
    Clone operation(engine, std::move(job), ClonePlan(), Holds::Hold());
    co_await operation.undo(
        Error(ErrorCode::interrupted, "the daemon ended at step {}; nothing was cloned", step));
}

/// Nothing is left to be protected: what was made is removed.
std::vector<ObjectId> locks_of_clone(const JobRecord&) {
    return {};
}

}  // namespace volchain::storage
