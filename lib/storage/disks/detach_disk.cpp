// SPDX-License-Identifier: MIT
#include "storage/disks/detach_disk.h"

#include "base/text.h"
#include "storage/jobs/presence.h"
#include "storage/qemu/device.h"
#include "storage/records/preview_state.h"
#include "storage/vms/disk_snapshots.h"
#include "storage/vms/live_chain.h"

namespace volchain::storage {
namespace {

constexpr const char* nodes_step = "nodes";

/// QEMU closes what a device had some moments after that is gone.
constexpr auto release_limit = std::chrono::seconds(5);

/// What recovery needs. `nodes`: those of the QEMU that has this pid, top first.
struct DetachPlan {
    Uuid vm;
    bool live = false;
    std::uint64_t pid = 0;
    std::vector<std::string> nodes;

    [[nodiscard]] Json json() const {
        return Json{{"vm", vm.str()}, {"live", live}, {"pid", pid}, {"nodes", nodes}};
    }
    [[nodiscard]] static DetachPlan parse(const JobRecord& job) {
        const JsonReader reader(job.plan, "plan of job " + job.id.str(), ErrorCode::internal);
        DetachPlan plan{id_in(reader.at("vm")), reader.at("live").boolean(), reader.at("pid").u64(), {}};
        for (const JsonReader& node : reader.at("nodes").elements()) plan.nodes.push_back(node.string());
        return plan;
    }
};

std::uint64_t pid_of(const qmp::Session& session) {
    return session.peer() ? static_cast<std::uint64_t>(session.peer()->pid()) : 0;
}

/// The node that has the image open, or the filter on top of it; empty where there is none.
std::string root_of_file(const qmp::BlockGraph& graph, const std::string& path) {
    const qmp::Node* node = graph.layer_of_file(path);
    for (std::size_t steps = 0; node != nullptr && steps < graph.nodes().size(); ++steps) {
        const auto above = graph.parents(node->name);
        if (above.empty()) return node->name;
        node = above.front();
    }
    return {};
}

class DetachDisk {
  public:
    DetachDisk(Engine& engine, JobPtr job, DetachPlan plan)
        : engine_(engine), job_(std::move(job)), disk_(job_->record().subject.id), plan_(std::move(plan)) {}

    async::Task<> run(async::Clock::duration timeout) {
        std::exception_ptr failure;
        co_await async::keep_failure(forward(timeout), failure);
        if (!failure || finished(job_->record().state)) co_return;
        if (let_go_ && to_error(failure).code() == ErrorCode::in_use)
            co_await fail_half_way(to_error(failure));
        else if (asked_)
            co_await settle(to_error(failure));
        else
            co_await job_->fail(Changes{}, to_error(failure));
    }

    async::Task<> recover() {
        let_go_ = job_->record().step == nodes_step || job_->record().step == "finish";
        Error reason(ErrorCode::interrupted, "the daemon ended at step {}", job_->record().step);
        if (!plan_.live || plan_.nodes.empty()) {
            reason = Error(reason.code(), "{}; nothing was changed", reason.what());
            co_return co_await job_->fail(Changes{}, std::move(reason));
        }
        co_await settle(std::move(reason));
    }

  private:
    [[nodiscard]] std::string active_path() const {
        const Catalog& catalog = engine_.catalog();
        return catalog.path(catalog.volume(catalog.disk(disk_).active));
    }

    async::Task<> forward(async::Clock::duration timeout) {
        if (!plan_.live) {
            co_await job_->step("finish");
            job_->no_return();
            co_return co_await finish();
        }
        co_await job_->step("look");
        const std::string device = co_await look();
        job_->set_plan(plan_.json());
        co_await job_->step("unplug");
        asked_ = true;
        if (!device.empty()) {
            Departure departure(engine_.vm(plan_.vm).session(), device);
            co_await job_->or_cancel(departure.wait(timeout));
        }
        co_await take_out();
    }

    /// Finds the disk's nodes in QEMU, and its device; empty where the guest has let go of that before.
    async::Task<std::string> look() {
        const std::string path = active_path();
        Vm& vm = engine_.vm(plan_.vm);
        co_await vm.read_disks();
        const async::Deadline deadline = async::after(engine_.settings().command_timeout);
        const auto session = vm.session();
        const qmp::BlockGraph graph = co_await qmp::read_block_graph(session, deadline);
        const LiveDisk* const disk = vm.find_disk(path);
        const std::string name = disk == nullptr ? "" : disk->device;
        const qmp::Device* const device = graph.find_device(name);
        plan_.nodes = nodes_below(graph, device == nullptr ? root_of_file(graph, path) : device->root);
        plan_.pid = pid_of(*session);
        co_return name;
    }

    /// The guest has let go of it.
    async::Task<> take_out() {
        co_await job_->undo_step(nodes_step);
        let_go_ = true;
        if (engine_.vm(plan_.vm).live()) co_await remove_from_qemu();
        co_await job_->undo_step("finish");
        co_await finish();
    }

    async::Task<> remove_from_qemu() {
        const auto session = engine_.vm(plan_.vm).session();
        // Another QEMU may have other nodes under these names.
        if (pid_of(*session) == plan_.pid)
            co_await remove_nodes(session, plan_.nodes, async::after(release_limit));
        co_await engine_.vm(plan_.vm).read_disks();
    }

    async::Task<> finish() {
        const Catalog& catalog = engine_.catalog();
        // QEMU writes bitmaps into an image when it closes it.
        co_await engine_.inspect_volumes(catalog.chain(catalog.disk(disk_).active));
        DiskRecord disk = catalog.disk(disk_);
        disk.vm = Uuid{};
        disk.target.clear();
        Changes changes;
        snapshots_go_along(catalog, disk_, plan_.vm, changes);
        changes.put(std::move(disk)).put(ManifestStale{plan_.vm, true});
        Json result;
        result["disk"] = object_json({ObjectKind::disk, disk_});
        co_await job_->succeed(std::move(changes), std::move(result));
        engine_.write_manifests();
    }

    /// Nobody knows whether the guest has let go.
    async::Task<> settle(Error reason) {
        const bool live = co_await runs_or_is_gone(engine_, plan_.vm);
        const bool has_it = live && engine_.vm(plan_.vm).find_disk(active_path()) != nullptr;
        if (!has_it && (live || let_go_)) {
            std::exception_ptr failure;
            co_await async::keep_failure(take_out(), failure);
            if (failure) co_await fail_half_way(to_error(failure));
            co_return;
        }
        // QEMU or the guest has refused, or else the request may still be with the guest.
        const bool refused = reason.code() == ErrorCode::qemu_failed;
        const std::string_view later =
            refused ? "" : " (should the guest let go of it later: detach it again)";
        reason = Error(reason.code(), "{}; the disk stays attached{}", reason.what(), later);
        co_await job_->fail(Changes{}, std::move(reason));
    }

    /// The record goes on saying what QEMU says: it has the image open.
    async::Task<> fail_half_way(Error why) {
        if (finished(job_->record().state)) co_return;
        why = Error(why.code(), "the guest has let go of it, but QEMU keeps it open: {}; detach it again",
                    why.what());
        co_await job_->fail(Changes{}, std::move(why));
    }

    Engine& engine_;
    JobPtr job_;
    Uuid disk_;
    DetachPlan plan_;
    bool asked_ = false;   ///< the guest may let go of it, or has
    bool let_go_ = false;  ///< it has
};

async::Task<> run(Engine& engine, JobPtr job, DetachPlan plan, async::Clock::duration timeout) {
    DetachDisk operation(engine, std::move(job), std::move(plan));
    co_await operation.run(timeout);
}

/// The VM that the disk is attached to.
Uuid vm_of_disk(const Catalog& catalog, const Uuid& disk) {
    const Uuid vm = catalog.disk(disk).vm;
    if (vm.nil())
        throw Error(ErrorCode::invalid_argument, "{} is not attached to a VM",
                    catalog.describe({ObjectKind::disk, disk}));
    check_no_preview(catalog, vm);
    return vm;
}

}  // namespace

async::Task<Uuid> detach_disk(Engine& engine, DetachRequest request) {
    const Uuid vm = vm_of_disk(engine.catalog(), request.disk);
    const bool live = co_await engine.ready_to_work(vm);
    refuse_moved(engine.catalog(), request.disk, vm);
    (void)vm_of_disk(engine.catalog(), request.disk);

    const DetachPlan plan{vm, live, 0, {}};
    JobRequest job("detach-disk", {ObjectKind::disk, request.disk}, request.owner_uid);
    job.locks = disk_and_vm(request.disk, vm);
    job.plan = plan.json();
    const auto timeout = request.timeout.value_or(engine.settings().unplug_timeout);
    Operation operation = [&engine, plan, timeout](JobPtr started) {
        return run(engine, std::move(started), plan, timeout);
    };
    co_return co_await engine.jobs().start(std::move(job), std::move(operation));
}

async::Task<> recover_detach_disk(Engine& engine, JobPtr job) {
    DetachPlan plan = DetachPlan::parse(job->record());
    DetachDisk operation(engine, std::move(job), std::move(plan));
    co_await operation.recover();
}

std::vector<ObjectId> locks_of_detach_disk(const JobRecord& job) {
    return disk_and_vm(job.subject.id, DetachPlan::parse(job).vm);
}

}  // namespace volchain::storage
