// SPDX-License-Identifier: MIT
#include "storage/create_disk.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "base/file.h"
#include "base/text.h"
#include "qcow2/empty_image.h"
#include "qmp/job.h"
#include "qmp/node.h"
#include "storage/helper.h"

namespace volchain::storage {
namespace {

constexpr const char* node_name = "disk";
constexpr auto progress_interval = std::chrono::seconds(1);

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
    const auto refuse = [](std::string_view option, std::string_view why) {
        throw Error(ErrorCode::invalid_argument, "option '{}' {}", option, why);
    };
    if (request.size == 0 || request.size % 512 != 0)
        throw Error(ErrorCode::invalid_argument,
                    "a disk of {} bytes: the size must be a multiple of 512, and not 0", request.size);
    check_disk_name_free(catalog, request.name);
    if (request.format == VolumeFormat::raw) {
        if (request.cluster_size) refuse("cluster-size", "is for qcow2 only");
        if (request.extended_l2) refuse("extended-l2", "is for qcow2 only");
        if (request.compression) refuse("compression", "is for qcow2 only");
        if (request.preallocation == Preallocation::metadata)
            refuse("preallocation", "'metadata' is for qcow2 only");
        if (request.size > static_cast<std::uint64_t>(INT64_MAX)) refuse("size", "is too large");
        return;
    }
    if (request.compression && *request.compression != "zlib" && *request.compression != "zstd")
        refuse("compression", fmt::format("{} is not one of zlib, zstd", quote(*request.compression)));
    // Throws where the options do not go together, before anything is made.
    qcow2::EmptyImageOptions options(request.size);
    options.cluster_size = request.cluster_size.value_or(options.cluster_size);
    options.extended_l2 = request.extended_l2;
    (void)qcow2::empty_image(options);
}

/// Makes the empty file.
void make_file(const std::string& pool_path, const std::string& file, const Settings& settings) {
    const UniqueFd pool = open_directory(pool_path);
    struct stat directory {};
    if (::fstat(pool.get(), &directory) < 0) throw system_error(errno, "cannot look at " + quote(pool_path));
    const UniqueFd fd = open_beneath(pool.get(), file, O_WRONLY | O_CREAT | O_EXCL, 0600);
    const uid_t uid = settings.image_uid.value_or(directory.st_uid);
    const gid_t gid = settings.image_gid.value_or(directory.st_gid);
    const bool mine = uid == ::geteuid() && gid == ::getegid();
    if ((!mine && ::fchown(fd.get(), uid, gid) < 0) || ::fchmod(fd.get(), settings.image_mode) < 0) {
        const int failure = errno;
        (void)::unlinkat(pool.get(), file.c_str(), 0);
        throw system_error(failure, fmt::format("cannot give {} its owner {}:{}", quote(file), uid, gid));
    }
}

void remove_half_made(const std::string& pool_path, const std::string& file) {
    const UniqueFd pool = open_directory(pool_path);
    (void)remove_file(pool.get(), file);
}

void flush_file(const std::string& pool_path, const std::string& file) {
    const UniqueFd pool = open_directory(pool_path);
    const UniqueFd fd = open_beneath(pool.get(), file, O_RDONLY);
    sync(fd.get(), quote(file));
    sync(pool.get(), quote(pool_path));
}

/// BlockdevCreateOptions.
Json create_options(const DiskRequest& request, const std::string& path) {
    Json options;
    options["driver"] = word(request.format);
    options["size"] = request.size;
    options["preallocation"] = word(request.preallocation);
    if (request.format == VolumeFormat::raw) {
        options["driver"] = "file";
        options["filename"] = path;
        return options;
    }
    options["file"] = node_name;
    if (request.cluster_size) options["cluster-size"] = *request.cluster_size;
    if (request.extended_l2) options["extended-l2"] = true;
    if (request.compression) options["compression-type"] = *request.compression;
    return options;
}

/// Shows progress until the job in the storage daemon has ended, which has no limit: writing zeroes all over a large
/// disk takes its time. A cancel breaks it off.
async::Task<> follow(JobPtr job, qmp::Job& creation, async::Clock::duration command_timeout) {
    while (!creation.ended()) {
        std::exception_ptr waited;
        co_await async::keep_failure(creation.until_ended(async::after(progress_interval)), waited);
        if (waited && to_error(waited).code() != ErrorCode::timeout) std::rethrow_exception(waited);
        job->throw_if_cancelled();
        if (creation.ended()) break;
        const auto info = co_await creation.query(async::after(command_timeout));
        job->progress(info.current, info.total);
    }
    co_await creation.finish(async::after(progress_interval * 30));
}

async::Task<> format_file(Engine& engine, JobPtr job, DiskRequest request, std::string path) {
    const auto helper = co_await start_storage_daemon(engine, path);
    const auto session = helper->session();
    const async::Deadline soon = async::after(engine.settings().command_timeout);
    if (request.format == VolumeFormat::qcow2) {
        const qmp::NodeOptions plain;
        Json node = qmp::file_node(node_name, path, qmp::Access::read_write, plain);
        (void)co_await session->execute("blockdev-add", std::move(node), soon);
    }
    Json arguments;
    arguments["options"] = create_options(request, path);
    qmp::Job creation(session, "create-disk");
    co_await creation.start("blockdev-create", std::move(arguments), soon);
    co_await follow(job, creation, engine.settings().command_timeout);
    (void)co_await helper->stop(async::after(engine.settings().command_timeout));
}

class CreateDisk {
  public:
    CreateDisk(Engine& engine, JobPtr job, Plan plan)
        : engine_(engine),
          job_(std::move(job)),
          plan_(std::move(plan)),
          pool_path_(engine.catalog().pool(plan_.pool).path) {}

    async::Task<> run(DiskRequest request) {
        std::exception_ptr failure;
        co_await async::keep_failure(forward(request), failure);
        if (failure && !finished(job_->record().state))
            co_await undo(to_error(failure).during("disk " + quote(request.name)));
    }

    async::Task<> undo(Error reason) {
        // Also where that step cannot be written: to end the job means to do it, at whatever step it was.
        std::exception_ptr failure;
        co_await async::keep_failure(job_->undo_step("undo"), failure);
        if (failure) job_->log().warning("undoing, though it cannot be noted: {}", to_error(failure).what());
        failure = nullptr;
        auto work = [pool = pool_path_, file = plan_.file] { remove_half_made(pool, file); };
        co_await async::keep_failure(engine_.files().run(std::move(work)), failure);
        if (failure) reason = Error(reason.code(), "{}; {}", reason.what(), to_error(failure).what());
        co_await job_->fail(Changes{}, std::move(reason));
    }

  private:
    async::Task<> forward(DiskRequest request) {
        co_await job_->step("file");
        auto make = [pool = pool_path_, file = plan_.file, &settings = engine_.settings()] {
            make_file(pool, file, settings);
        };
        co_await engine_.files().run(std::move(make));
        co_await job_->step("format");
        co_await format_file(engine_, job_, request, pool_path_ + "/" + plan_.file);
        auto flush = [pool = pool_path_, file = plan_.file] { flush_file(pool, file); };
        co_await engine_.files().run(std::move(flush));
        co_await job_->step("finish");
        co_await finish(request);
    }

    async::Task<> finish(DiskRequest request) {
        auto look = [pool = pool_path_, file = plan_.file, format = request.format] {
            return inspect_image(pool, file, format);
        };
        VolumeFacts facts = co_await engine_.files().run(std::move(look));
        if (facts.state != VolumeState::ok || facts.size != request.size)
            throw Error(ErrorCode::internal, "the new image is not what it should be: {}", facts.problem);
        check_disk_name_free(engine_.catalog(), request.name);
        DiskRecord disk;
        disk.id = plan_.disk;
        disk.name = request.name;
        disk.active = plan_.volume;
        VolumeRecord volume{plan_.volume, plan_.disk, plan_.pool, plan_.file, request.format, now()};
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
    std::string pool_path_;
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
}

async::Task<Uuid> create_disk(Engine& engine, DiskRequest request) {
    (void)engine.catalog().pool(request.pool);
    check_request(engine.catalog(), request);
    Plan plan{request.pool, Uuid::make(), Uuid::make(), {}};
    plan.file =
        fmt::format("{}-{}.{}", file_name_part(request.name), plan.volume.str(), word(request.format));

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
