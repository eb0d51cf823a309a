// SPDX-License-Identifier: MIT
#include "storage/disks/resize_disk.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "base/file.h"
#include "base/text.h"
#include "qmp/image_lock.h"
#include "qmp/node.h"
#include "storage/checkpoints/checkpoints.h"
#include "storage/images/volume_lock.h"
#include "storage/jobs/presence.h"
#include "storage/qemu/helper.h"

namespace volchain::storage {
namespace {

/// Cutting much off frees many clusters one by one.
constexpr auto resize_limit = std::chrono::minutes(10);
/// For a storage daemon of an earlier life of ours to end: it was told to when that ended.
constexpr auto helper_end_limit = std::chrono::seconds(15);

struct ResizePlan {
    Uuid vm;
    std::uint64_t size = 0;
    std::uint64_t before = 0;

    [[nodiscard]] Json json() const { return Json{{"vm", vm.str()}, {"size", size}, {"before", before}}; }
    [[nodiscard]] static ResizePlan parse(const JobRecord& job) {
        const JsonReader reader(job.plan, "plan of job " + job.id.str(), ErrorCode::internal);
        return {id_in(reader.at("vm")), reader.at("size").u64(), reader.at("before").u64()};
    }
};

/// Whether the disk may have this size, by what its headers said last.
void check_size(const Catalog& catalog, const Uuid& disk, std::uint64_t size, bool shrink) {
    const Uuid active = catalog.disk(disk).active;
    const VolumeFacts& facts = catalog.facts(active);
    const std::string what = catalog.describe({ObjectKind::disk, disk});
    if (facts.state != VolumeState::ok)
        throw Error(ErrorCode::broken_chain, "{}: its active volume {} is {}: {}", what,
                    quote(catalog.path(catalog.volume(active))), word(facts.state), facts.problem);
    if (facts.backing && catalog.backing(active).nil())
        throw Error(ErrorCode::broken_chain, "{}: the backing file {} of its active volume is no volume",
                    what, quote(facts.backing->name));
    const Uuid below = catalog.backing(active);
    if (below && catalog.facts(below).state != VolumeState::ok)
        throw Error(ErrorCode::broken_chain, "{}: {} is {}: {}", what,
                    catalog.describe({ObjectKind::volume, below}), word(catalog.facts(below).state),
                    catalog.facts(below).problem);
    if (below && size < catalog.facts(below).size)
        throw Error(ErrorCode::invalid_argument,
                    "{}: {} bytes are less than the {} bytes of its backing volume, {}, whose content would "
                    "be cut off",
                    what, size, catalog.facts(below).size, catalog.describe({ObjectKind::volume, below}));
    if (size < facts.size && !shrink)
        throw Error(
            ErrorCode::invalid_argument,
            "{} has {} bytes: what is beyond {} would be lost; say shrink=true if nothing of it is needed",
            what, facts.size, size);
    const std::vector<Uuid> children = catalog.children(active);
    if (!children.empty())
        throw Error(ErrorCode::in_use, "{}: its active volume is the backing file of {}", what,
                    catalog.describe({ObjectKind::volume, children.front()}));
}

async::Task<> look_at(Engine& engine, Uuid disk) {
    const Uuid active = engine.catalog().disk(disk).active;
    co_await engine.inspect_volume(active);
    const Uuid below = engine.catalog().backing(active);
    if (below) co_await engine.inspect_volume(below);
}

/// With the lock of a QEMU that writes: a storage daemon that has a raw image open, and does nothing, has none.
void resize_raw(const std::string& pool_path, const std::string& file, std::uint64_t size) {
    const UniqueFd pool = open_directory(pool_path);
    const std::string path = pool_path + "/" + file;
    const auto lock = qmp::ImageLock::take_writer(open_beneath(pool.get(), file, O_RDWR), path);
    if (::ftruncate(lock.fd(), static_cast<off_t>(size)) < 0)
        throw system_error(errno, "cannot resize " + quote(path));
    sync(lock.fd(), quote(path));
}

Json resize_arguments(const std::string& node, std::uint64_t size) {
    Json arguments;
    arguments["node-name"] = node;
    arguments["size"] = size;
    return arguments;
}

class ResizeDisk {
  public:
    ResizeDisk(Engine& engine, JobPtr job, ResizePlan plan)
        : engine_(engine), job_(std::move(job)), disk_(job_->record().subject.id), plan_(plan) {}

    async::Task<> run(bool live) {
        std::exception_ptr failure;
        co_await async::keep_failure(forward(live), failure);
        if (!failure || finished(job_->record().state)) co_return;
        if (begun_)
            co_await settle(to_error(failure));
        else
            co_await job_->fail(Changes{}, to_error(failure));
    }

    async::Task<> recover() {
        Error reason(ErrorCode::interrupted, "the daemon ended at step {}", job_->record().step);
        helper_ = true;
        co_await settle(std::move(reason));
    }

  private:
    [[nodiscard]] Uuid active() const { return engine_.catalog().disk(disk_).active; }

    async::Task<> forward(bool live) {
        co_await job_->step("resize");
        job_->no_return();
        begun_ = true;
        if (plan_.size != plan_.before) co_await resize(live);
        co_await job_->undo_step("finish");
        co_await engine_.inspect_volume(active());
        if (size_now() != plan_.size)
            throw Error(ErrorCode::qemu_failed, "the image has {} bytes after it was resized to {}",
                        size_now(), plan_.size);
        co_await finish();
    }

    [[nodiscard]] std::uint64_t size_now() const { return engine_.catalog().facts(active()).size; }

    /// What is cut off is zero when the disk grows again, which no bitmap tells: what has changed since any checkpoint is not
    /// known any more. Bitmaps of others are theirs.
    [[nodiscard]] std::vector<std::string> lost_checkpoints(const std::vector<std::string>& bitmaps) const {
        std::vector<std::string> lost;
        if (plan_.size < plan_.before)
            for (const std::string& bitmap : bitmaps)
                if (CheckpointName::of_bitmap(bitmap)) lost.push_back(bitmap);
        return lost;
    }

    /// Before the first byte goes.
    async::Task<> drop(std::shared_ptr<qmp::Session> session, std::string node,
                       std::vector<std::string> bitmaps) {
        for (const std::string& bitmap : lost_checkpoints(bitmaps)) {
            Json arguments{{"node", node}, {"name", bitmap}};
            (void)co_await session->execute("block-dirty-bitmap-remove", std::move(arguments),
                                            async::after(engine_.settings().command_timeout));
            job_->log().notice("the disk is cut: checkpoint {} ends for it",
                               quote(CheckpointName::of_bitmap(bitmap)->name));
        }
    }

    async::Task<> resize(bool live) {
        if (live) co_return co_await resize_live();
        const VolumeRecord volume = engine_.catalog().volume(active());
        const std::string pool = engine_.catalog().pool(volume.pool).path;
        if (volume.format == VolumeFormat::raw) {
            auto work = [pool, file = volume.file, size = plan_.size] { resize_raw(pool, file, size); };
            co_return co_await engine_.files().run(std::move(work));
        }
        co_await prove_unused();
        co_await engine_.inspect_volume(active());
        co_await resize_in_helper(engine_.catalog().path(volume));
    }

    /// InUse where a process has the image open.
    async::Task<> prove_unused() { (void)co_await lock_for_writing(engine_, active()); }

    /// Filters on top of the image know its size, too: it is the topmost node that is told.
    async::Task<> resize_live() {
        const auto session = engine_.vm(plan_.vm).session();
        const std::string node = live_disk(engine_, disk_).active().node;
        const qmp::BlockGraph graph =
            co_await qmp::read_block_graph(session, async::after(engine_.settings().command_timeout));
        std::vector<std::string> bitmaps;
        if (const qmp::Node* const layer = graph.find(node))
            for (const qmp::DirtyBitmap& bitmap : layer->bitmaps) bitmaps.push_back(bitmap.name);
        co_await drop(session, node, std::move(bitmaps));
        const auto devices = graph.devices_on(node);
        Json arguments = resize_arguments(devices.empty() ? node : devices.front()->root, plan_.size);
        (void)co_await session->execute("block_resize", std::move(arguments), async::after(resize_limit));
    }

    async::Task<> resize_in_helper(std::string path) {
        helper_ = true;
        const auto helper = co_await start_storage_daemon(engine_, path);
        std::exception_ptr failure;
        co_await async::keep_failure(resize_node(helper->session(), std::move(path)), failure);
        // In order also where it failed: bitmaps are written when it closes the image, and lost where it is killed.
        const bool clean = co_await helper->stop(async::after(engine_.settings().command_timeout));
        if (failure) std::rethrow_exception(failure);
        if (!clean) throw Error(ErrorCode::qemu_failed, "the storage daemon did not end in order");
    }

    /// Where the backing volume is larger than the image was, what of it lies beyond must not show up: QEMU covers that
    /// with zeroes if it knows how large the backing is. Of its content it needs nothing.
    async::Task<> resize_node(std::shared_ptr<qmp::Session> session, std::string path) {
        const async::Deadline soon = async::after(engine_.settings().command_timeout);
        const qmp::NodeOptions plain;
        Json file = qmp::file_node("file", path, qmp::Access::read_write, plain);
        Json node = qmp::format_node("image", "qcow2", std::move(file), qmp::Access::read_write, plain);
        if (const Uuid below = engine_.catalog().backing(active())) {
            Json nothing;
            nothing["driver"] = "null-co";
            nothing["node-name"] = "below";
            nothing["size"] = engine_.catalog().facts(below).size;
            nothing["read-zeroes"] = true;
            nothing["read-only"] = true;
            (void)co_await session->execute("blockdev-add", std::move(nothing), soon);
            node = qmp::with_backing(std::move(node), "below");
        }
        (void)co_await session->execute("blockdev-add", std::move(node), soon);
        std::vector<std::string> bitmaps;
        for (const qcow2::Bitmap& bitmap : engine_.catalog().facts(active()).bitmaps)
            bitmaps.push_back(bitmap.name);
        co_await drop(session, "image", std::move(bitmaps));
        Json arguments = resize_arguments("image", plan_.size);
        (void)co_await session->execute("block_resize", std::move(arguments), async::after(resize_limit));
    }

    async::Task<> finish() {
        Json result;
        result["size-bytes"] = plan_.size;
        result["before-bytes"] = plan_.before;
        Changes changes;
        if (plan_.vm) changes.put(ManifestStale{plan_.vm, true});
        co_await job_->succeed(std::move(changes), std::move(result));
        engine_.write_manifests();
    }

    /// Nobody knows how far it got: the image does.
    async::Task<> settle(Error reason) {
        const bool live = co_await runs_or_is_gone(engine_, plan_.vm);
        if (!live && helper_) co_await wait_unused();
        co_await engine_.inspect_volume(active());
        const std::uint64_t size = size_now();
        if (size == plan_.size) {
            job_->log().notice("{}; the image has the new size", reason.what());
            co_return co_await finish();
        }
        co_await job_->fail(Changes{}, Error(reason.code(), "{}; it has {} bytes", reason.what(), size));
    }

    /// A storage daemon may have it open yet. Where another process has, the size is what it is now.
    async::Task<> wait_unused() {
        constexpr auto look_again = std::chrono::milliseconds(50);
        const async::Deadline end = async::after(helper_end_limit);
        while (async::Clock::now() < end) {
            std::exception_ptr in_use;
            co_await async::keep_failure(prove_unused(), in_use);
            if (!in_use || to_error(in_use).code() != ErrorCode::in_use) co_return;
            co_await async::sleep_until(async::after(look_again));
        }
    }

    Engine& engine_;
    JobPtr job_;
    Uuid disk_;
    ResizePlan plan_;
    bool begun_ = false;
    bool helper_ = false;  ///< a storage daemon may have the image open
};

async::Task<> run(Engine& engine, JobPtr job, ResizePlan plan, bool live) {
    ResizeDisk operation(engine, std::move(job), plan);
    co_await operation.run(live);
}

}  // namespace

async::Task<Uuid> resize_disk(Engine& engine, ResizeRequest request) {
    const Catalog& catalog = engine.catalog();
    if (request.size == 0 || request.size % 512 != 0 || request.size > static_cast<std::uint64_t>(INT64_MAX))
        throw Error(ErrorCode::invalid_argument,
                    "{}: {} bytes are no size: it must be a multiple of 512, not 0, and less than 2^63",
                    catalog.describe({ObjectKind::disk, request.disk}), request.size);
    const Uuid vm = catalog.disk(request.disk).vm;
    const bool live = co_await ready_to_work(engine, vm);
    co_await look_at(engine, request.disk);
    refuse_moved(catalog, request.disk, vm);
    check_size(catalog, request.disk, request.size, request.shrink);
    if (live) (void)live_disk(engine, request.disk);

    const ResizePlan plan{vm, request.size, catalog.facts(catalog.disk(request.disk).active).size};
    JobRequest job("resize-disk", {ObjectKind::disk, request.disk}, request.owner_uid);
    job.locks = disk_and_vm(request.disk, vm);
    job.plan = plan.json();
    Operation operation = [&engine, plan, live](JobPtr started) {
        return run(engine, std::move(started), plan, live);
    };
    co_return co_await engine.jobs().start(std::move(job), std::move(operation));
}

async::Task<> recover_resize_disk(Engine& engine, JobPtr job) {
    const ResizePlan plan = ResizePlan::parse(job->record());
    ResizeDisk operation(engine, std::move(job), plan);
    co_await operation.recover();
}

std::vector<ObjectId> locks_of_resize_disk(const JobRecord& job) {
    return disk_and_vm(job.subject.id, ResizePlan::parse(job).vm);
}

}  // namespace volchain::storage
