// SPDX-License-Identifier: MIT
#include "storage/checkpoints/delete_checkpoint.h"

#include "base/text.h"
#include "storage/checkpoints/checkpoints.h"
#include "storage/checkpoints/drop_bitmap.h"
#include "storage/jobs/presence.h"

namespace volchain::storage {
namespace {

struct DropPlan {
    std::string bitmap;
    std::vector<Uuid> disks;

    [[nodiscard]] Json json() const {
        Json plan{{"bitmap", bitmap}, {"disks", Json::array()}};
        for (const Uuid& disk : disks) plan["disks"].push_back(disk.str());
        return plan;
    }
    [[nodiscard]] static DropPlan parse(const JobRecord& job) {
        const JsonReader reader(job.plan, "plan of job " + job.id.str(), ErrorCode::internal);
        DropPlan plan;
        plan.bitmap = reader.at("bitmap").string();
        for (const JsonReader& disk : reader.at("disks").elements()) plan.disks.push_back(id_in(disk));
        return plan;
    }
};

async::Task<> run_deletion(Engine& engine, JobPtr job, DropPlan plan, bool live) {
    job->no_return();
    co_await job->step_through("drop");
    const Uuid vm = job->record().subject.id;
    std::vector<std::string> left = co_await drop_bitmap(engine, vm, live, plan.disks, plan.bitmap);
    Json result;
    result["left"] = Json::array();
    for (std::string& path : left) result["left"].push_back(std::move(path));
    co_await job->succeed(Changes{}, std::move(result));
}

}  // namespace

async::Task<Uuid> delete_checkpoint(Engine& engine, Uuid vm, std::string name, std::uint32_t owner_uid) {
    (void)engine.catalog().vm(vm);
    const bool live = co_await engine.ready_to_work(vm);
    co_await look_at_checkpoints(engine, vm);
    DropPlan plan;
    plan.bitmap = find_checkpoint(engine, vm, name).bitmap();
    plan.disks = engine.catalog().disks_of_vm(vm);
    JobRequest job("delete-checkpoint", {ObjectKind::vm, vm}, owner_uid);
    job.locks.push_back({ObjectKind::vm, vm});
    for (const Uuid& disk : plan.disks) job.locks.push_back({ObjectKind::disk, disk});
    job.plan = plan.json();
    Operation operation = [&engine, plan, live](JobPtr started) {
        return run_deletion(engine, std::move(started), plan, live);
    };
    co_return co_await engine.jobs().start(std::move(job), std::move(operation));
}

async::Task<> recover_delete_checkpoint(Engine& engine, JobPtr job) {
    const bool live = co_await runs_or_is_gone(engine, job->record().subject.id);
    DropPlan plan = DropPlan::parse(job->record());
    co_await run_deletion(engine, std::move(job), std::move(plan), live);
}

std::vector<ObjectId> locks_of_delete_checkpoint(const JobRecord& job) {
    std::vector<ObjectId> objects{job.subject};
    for (const Uuid& disk : DropPlan::parse(job).disks) objects.push_back({ObjectKind::disk, disk});
    return objects;
}

}  // namespace volchain::storage
