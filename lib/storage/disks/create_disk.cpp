// SPDX-License-Identifier: MIT
#include "storage/disks/create_disk.h"

#include "base/text.h"
#include "storage/qemu/helper.h"

namespace volchain::storage {
namespace {

/// What create_disk works with, and what recovery needs.
struct Plan {
    Uuid pool;
    Uuid disk;
    Uuid volume;
    std::string file;

    [[nodiscard]] Json json() const {
        return Json{{"pool", pool.str()}, {"disk", disk.str()}, {"volume", volume.str()}, {"file", file}};
    }
    [[nodiscard]] static Plan parse(const Json& document) {
        const JsonReader reader(document, "plan of create-disk", ErrorCode::internal);
        const auto id = [&](std::string_view member) {
            return Uuid::parse(reader.at(member).string()).value_or(Uuid{});
        };
        return {id("pool"), id("disk"), id("volume"), reader.at("file").string()};
    }
};

void check_request(const Catalog& catalog, const DiskRequest& request) {
    check_name("disk", request.name);
    check_image_options(request.image);
    check_disk_name_free(catalog, request.name);
}

class CreateDisk {
  public:
    CreateDisk(Engine& engine, JobPtr job, Plan plan)
        : engine_(engine),
          job_(std::move(job)),
          plan_(std::move(plan)),
          file_(engine.catalog().pool(plan_.pool).path, plan_.file) {}

    async::Task<> run(DiskRequest request) {
        std::exception_ptr failure;
        co_await async::keep_failure(forward(request), failure);
        if (failure && !finished(job_->record().state))
            co_await undo(to_error(failure).during("disk " + quote(request.name)));
    }

    async::Task<> undo(Error reason) {
        co_await job_->begin_undo();
        std::vector<NewFile> files{file_};
        reason = co_await take_back_files(engine_, std::move(files), std::move(reason));
        co_await job_->fail(Changes{}, std::move(reason));
    }

  private:
    async::Task<> forward(DiskRequest request) {
        co_await job_->step("file");
        auto make = [file = file_, &settings = engine_.settings()] { make_image_file(file, settings); };
        co_await engine_.files().run(std::move(make));
        co_await job_->step("format");
        co_await format_new_file(engine_, job_, request.image, file_);
        co_await job_->step("finish");
        co_await finish(request);
    }

    async::Task<> finish(DiskRequest request) {
        auto look = [file = file_, format = request.image.format] {
            return inspect_image(file.pool, file.file, format);
        };
        VolumeFacts facts = co_await engine_.files().run(std::move(look));
        if (facts.state != VolumeState::ok || facts.size != request.image.size)
            throw Error(ErrorCode::internal, "the new image is not what it should be: {}", facts.problem);
        check_disk_name_free(engine_.catalog(), request.name);
        DiskRecord disk;
        disk.id = plan_.disk;
        disk.name = request.name;
        disk.active = plan_.volume;
        VolumeRecord volume{plan_.volume, plan_.disk, plan_.pool, plan_.file, request.image.format, now()};
        Changes changes;
        changes.put(std::move(disk)).put(std::move(volume));
        Json result;
        result["disk"] = object_json({ObjectKind::disk, plan_.disk});
        result["volume"] = object_json({ObjectKind::volume, plan_.volume});
        engine_.catalog().set_facts(plan_.volume, std::move(facts));
        job_->no_return();
        co_await job_->succeed(std::move(changes), std::move(result));
    }

    Engine& engine_;
    JobPtr job_;
    Plan plan_;
    NewFile file_;
};

async::Task<> run(Engine& engine, JobPtr job, Plan plan, DiskRequest request) {
    CreateDisk operation(engine, std::move(job), std::move(plan));
    co_await operation.run(std::move(request));
}

}  // namespace

void check_disk_name_free(const Catalog& catalog, const std::string& name) {
    for (const auto& [id, disk] : catalog.disks())
        if (disk.name == name)
            throw Error(ErrorCode::already_exists, "there is a disk {} already ({})", quote(name), id.str());
    for (const RestoredDisk& restored : catalog.restored_disks())
        if (restored.name == name)
            throw Error(ErrorCode::already_exists, "a disk {} is being restored", quote(name));
}

async::Task<Uuid> create_disk(Engine& engine, DiskRequest request) {
    (void)engine.catalog().pool(request.pool);
    check_request(engine.catalog(), request);
    Plan plan{request.pool, Uuid::make(), Uuid::make(), {}};
    plan.file = image_file_name(request.name, plan.volume, request.image.format);

    JobRequest job("create-disk", {ObjectKind::pool, request.pool}, request.owner_uid);
    job.plan = plan.json();
    auto claim = std::make_shared<Catalog::DiskNameClaim>(engine.catalog(), request.name);
    Operation operation = [&engine, plan, request, claim = std::move(claim)](JobPtr started) {
        return run(engine, std::move(started), plan, request);
    };
    co_return co_await engine.jobs().start(std::move(job), std::move(operation));
}

async::Task<> recover_create_disk(Engine& engine, JobPtr job) {
    const std::string step = job->record().step;
    Plan plan = Plan::parse(job->record().plan);
    CreateDisk operation(engine, std::move(job), std::move(plan));
    co_await operation.undo(
        Error(ErrorCode::interrupted, "the daemon ended at step {}; nothing was created", step));
}

std::vector<ObjectId> locks_of_create_disk(const JobRecord&) {
    return {};
}

}  // namespace volchain::storage
