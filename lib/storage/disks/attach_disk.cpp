// SPDX-License-Identifier: MIT
#include "storage/disks/attach_disk.h"

#include <algorithm>

#include "base/text.h"
#include "storage/jobs/presence.h"
#include "storage/qemu/device.h"
#include "storage/records/preview_state.h"
#include "storage/vms/disk_snapshots.h"
#include "storage/vms/live_chain.h"

namespace volchain::storage {
namespace {

constexpr const char* default_device = "virtio-blk-pci";
constexpr std::size_t max_device_words = 128;

// --- what is asked for
// -----------------------------------------------------------------------------------------------

void check_word(std::string_view option, const std::string& text, std::string_view allowed) {
    const auto odd = [&](char c) {
        const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        return !plain && allowed.find(c) == std::string_view::npos;
    };
    if (text.size() > max_device_words || std::any_of(text.begin(), text.end(), odd))
        throw Error(ErrorCode::invalid_argument, "option '{}': {} is no name that QEMU has for one", option,
                    quote(clipped(text)));
}

void check_request(const Catalog& catalog, const AttachRequest& request) {
    if (!request.target.empty()) check_name("target", request.target);
    check_word("device", request.device, "-._");
    check_word("bus", request.bus, "-._/[]:");
    (void)catalog.vm(request.vm);
    check_no_preview(catalog, request.vm);
    if (const Uuid owner = catalog.disk(request.disk).vm)
        throw Error(ErrorCode::in_use, "{} is attached to {}",
                    catalog.describe({ObjectKind::disk, request.disk}),
                    catalog.describe({ObjectKind::vm, owner}));
    for (const Uuid& other : catalog.disks_of_vm(request.vm))
        if (!request.target.empty() && catalog.disk(other).target == request.target)
            throw Error(ErrorCode::already_exists, "{} has target {} already",
                        catalog.describe({ObjectKind::disk, other}), quote(request.target));
}

void refuse_device_options(const Catalog& catalog, const AttachRequest& request) {
    for (const auto& [option, value] : {std::pair("device", request.device), std::pair("bus", request.bus)})
        if (!value.empty())
            throw Error(ErrorCode::invalid_argument,
                        "option '{}' is for a VM that runs; {} is down, and whoever starts it decides that",
                        option, catalog.describe({ObjectKind::vm, request.vm}));
}

// --- the operation
// ---------------------------------------------------------------------------------------------------

/// What recovery needs; empty `device`: of a VM that is down.
struct AttachPlan {
    Uuid vm;
    std::string target;
    std::string device;  ///< its id
    std::vector<std::string> nodes;

    [[nodiscard]] Json json() const {
        return Json{{"vm", vm.str()}, {"target", target}, {"device", device}, {"nodes", nodes}};
    }
    [[nodiscard]] static AttachPlan parse(const JobRecord& job) {
        const JsonReader reader(job.plan, "plan of job " + job.id.str(), ErrorCode::internal);
        AttachPlan plan{
            id_in(reader.at("vm")), reader.at("target").string(), reader.at("device").string(), {}};
        for (const JsonReader& node : reader.at("nodes").elements()) plan.nodes.push_back(node.string());
        return plan;
    }
};

std::string device_id(const Uuid& disk) {
    std::string text = disk.str();
    std::erase(text, '-');
    return "vcd-" + text.substr(0, 16);
}

class AttachDisk {
  public:
    AttachDisk(Engine& engine, JobPtr job, AttachPlan plan)
        : engine_(engine), job_(std::move(job)), disk_(job_->record().subject.id), plan_(std::move(plan)) {}

    async::Task<> run(AttachRequest request) {
        std::exception_ptr failure;
        co_await async::keep_failure(forward(request), failure);
        if (!failure || finished(job_->record().state)) co_return;
        if (unknown_)
            co_await settle(to_error(failure));
        else
            co_await undo(to_error(failure));
    }

    async::Task<> recover() {
        Error reason(ErrorCode::interrupted, "the daemon ended at step {}", job_->record().step);
        if (plan_.nodes.empty()) {
            reason = Error(reason.code(), "{}; nothing was changed", reason.what());
            co_return co_await job_->fail(Changes{}, std::move(reason));
        }
        co_await settle(std::move(reason));
    }

  private:
    async::Task<> forward(AttachRequest request) {
        if (plan_.device.empty()) {
            co_await job_->step("finish");
            job_->no_return();
            co_return co_await finish(nullptr);
        }
        co_await job_->step("look");
        co_await inspect_chain(engine_, disk_);
        std::vector<PlannedLayer> layers = plan_layers(engine_.catalog(), disk_);
        NewDevice device(request.device.empty() ? default_device : request.device, plan_.device,
                         layers.front().node);
        device.bus = request.bus;
        device.serial = plan_.target;
        device.shareable = engine_.catalog().disk(disk_).shareable;
        for (const PlannedLayer& layer : layers) plan_.nodes.push_back(layer.node);
        job_->set_plan(plan_.json());
        co_await job_->step("nodes");
        const auto session = engine_.vm(plan_.vm).session();
        co_await add_layers(engine_, session, std::move(layers), options(), qmp::Access::read_write);
        co_await job_->step("device");
        job_->no_return();
        co_await plug_in(session, std::move(device));
        co_await job_->undo_step("finish");
        co_await finish_live();
    }

    async::Task<> plug_in(std::shared_ptr<qmp::Session> session, NewDevice device) {
        unknown_ = true;
        try {
            co_await plug(session, std::move(device), async::after(engine_.settings().command_timeout));
        } catch (const qmp::CommandError&) {
            unknown_ = false;  // QEMU refused, and changed nothing
            throw;
        }
    }

    /// Those that the disk had when a VM was last seen to have it.
    [[nodiscard]] qmp::NodeOptions options() const {
        const Json& record = engine_.catalog().disk(disk_).node_options;
        if (!record.empty()) return qmp::NodeOptions::parse({record, "disk options", ErrorCode::internal});
        qmp::NodeOptions fresh;
        fresh.discard = true;
        return fresh;
    }

    async::Task<> finish_live() {
        std::exception_ptr failure;
        co_await async::keep_failure(engine_.vm(plan_.vm).read_disks(), failure);
        // It has ended since; what is to be recorded is the same.
        if (failure) job_->log().notice("after the disk was plugged in: {}", to_error(failure).what());
        const Catalog& catalog = engine_.catalog();
        LiveDisk* const live =
            engine_.vm(plan_.vm).find_disk(catalog.path(catalog.volume(catalog.disk(disk_).active)));
        co_await finish(live);
    }

    async::Task<> finish(LiveDisk* live) {
        const Catalog& catalog = engine_.catalog();
        DiskRecord disk = catalog.disk(disk_);
        disk.vm = plan_.vm;
        disk.target = plan_.target;
        Json result;
        if (live != nullptr) {
            disk.target = live->target;
            live->options = options();
            live->options_known = true;
            disk.node_options = live->options.json();
            result["device"] = live->device;
        }
        Changes changes;
        std::vector<std::string> taken = snapshot_names(catalog, plan_.vm);
        snapshots_come_along(catalog, disk_, plan_.vm, taken, changes);
        changes.put(std::move(disk)).put(ManifestStale{plan_.vm, true});
        result["disk"] = object_json({ObjectKind::disk, disk_});
        co_await job_->succeed(std::move(changes), std::move(result));
        engine_.write_manifests();
    }

    async::Task<> undo(Error reason) {
        co_await job_->begin_undo();
        std::exception_ptr failure;
        if (!plan_.nodes.empty() && engine_.vm(plan_.vm).live()) {
            const auto session = engine_.vm(plan_.vm).session();
            const async::Deadline deadline = async::after(engine_.settings().command_timeout);
            co_await async::keep_failure(remove_nodes(session, plan_.nodes, deadline), failure);
        }
        if (failure)
            reason = Error(reason.code(), "{}; not all of it could be undone: {}", reason.what(),
                           to_error(failure).what());
        // QEMU has marked what it had open for writing, and takes the marks off again.
        co_await async::keep_failure(engine_.inspect_volume(engine_.catalog().disk(disk_).active), failure);
        co_await job_->fail(Changes{}, std::move(reason));
    }

    /// Nobody knows whether QEMU has the device.
    async::Task<> settle(Error reason) {
        const bool live = co_await runs_or_is_gone(engine_, plan_.vm);
        const Catalog& catalog = engine_.catalog();
        const std::string path = catalog.path(catalog.volume(catalog.disk(disk_).active));
        if (live && engine_.vm(plan_.vm).find_disk(path) != nullptr) {
            job_->log().notice("the VM has the disk; it is finished");
            co_return co_await finish_live();
        }
        co_await undo(Error(reason.code(), "{}; the disk floats as before", reason.what()));
    }

    Engine& engine_;
    JobPtr job_;
    Uuid disk_;
    AttachPlan plan_;
    bool unknown_ = false;
};

async::Task<> run(Engine& engine, JobPtr job, AttachPlan plan, AttachRequest request) {
    AttachDisk operation(engine, std::move(job), std::move(plan));
    co_await operation.run(std::move(request));
}

}  // namespace

async::Task<Uuid> attach_disk(Engine& engine, AttachRequest request) {
    const Catalog& catalog = engine.catalog();
    check_request(catalog, request);
    const bool live = co_await engine.ready_to_work(request.vm);
    check_request(catalog, request);  // others may have been faster meanwhile
    if (!live) refuse_device_options(catalog, request);

    const AttachPlan plan{request.vm, request.target, live ? device_id(request.disk) : "", {}};
    JobRequest job("attach-disk", {ObjectKind::disk, request.disk}, request.owner_uid);
    job.locks = disk_and_vm(request.disk, request.vm);
    job.plan = plan.json();
    Operation operation = [&engine, plan, request](JobPtr started) {
        return run(engine, std::move(started), plan, request);
    };
    co_return co_await engine.jobs().start(std::move(job), std::move(operation));
}

async::Task<> recover_attach_disk(Engine& engine, JobPtr job) {
    AttachPlan plan = AttachPlan::parse(job->record());
    AttachDisk operation(engine, std::move(job), std::move(plan));
    co_await operation.recover();
}

std::vector<ObjectId> locks_of_attach_disk(const JobRecord& job) {
    return disk_and_vm(job.subject.id, AttachPlan::parse(job).vm);
}

}  // namespace volchain::storage
