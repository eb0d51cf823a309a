// SPDX-License-Identifier: MIT
#include "storage/disks/import_copy.h"

#include <algorithm>
#include <filesystem>

#include "base/text.h"
#include "storage/disks/copied_chain.h"
#include "storage/disks/create_disk.h"
#include "storage/qemu/helper.h"

namespace volchain::storage {
namespace {

namespace fs = std::filesystem;

constexpr auto import_rename_limit = std::chrono::seconds(60);
/// Between two looks at what the user wishes.
constexpr std::uint64_t most_at_once = std::uint64_t{32} << 20;
constexpr std::uint64_t least_at_once = std::uint64_t{64} << 10;
constexpr auto longest_halt = std::chrono::hours(1);

std::vector<NewFile> files_of_import(const JobRecord& job) {
    std::vector<NewFile> files;
    if (!job.plan.is_object()) return files;
    const JsonReader plan(job.plan, "plan of job " + job.id.str(), ErrorCode::internal);
    const auto list = plan.find("files");
    if (!list) return files;
    for (const JsonReader& file : list->elements())
        files.emplace_back(file.at("pool").string(), file.at("file").string());
    return files;
}

class ImportCopy {
  public:
    ImportCopy(Engine& engine, JobPtr job, ImportRequest request)
        : engine_(engine), job_(std::move(job)), request_(std::move(request)) {}

    async::Task<> run() {
        std::exception_ptr failure;
        co_await async::keep_failure(forward(), failure);
        if (failure && !finished(job_->record().state)) co_await undo(to_error(failure));
    }

    async::Task<> undo(Error reason) {
        co_await job_->begin_undo();
        std::vector<NewFile> files = files_of_import(job_->record());
        reason = co_await take_back_files(engine_, std::move(files), std::move(reason));
        co_await job_->fail(Changes{}, std::move(reason));
    }

  private:
    [[nodiscard]] const Catalog& catalog() const noexcept { return engine_.catalog(); }

    async::Task<> forward() {
        co_await job_->step("read");
        co_await read();
        co_await check_room();
        choose_name();
        const Catalog::DiskNameClaim claim(engine_.catalog(), name_);
        plan();
        co_await job_->step("copy");
        co_await copy();
        co_await job_->step("rebase");
        co_await rebase();
        co_await job_->step("finish");
        co_await finish();
    }

    async::Task<> read() {
        pool_ = catalog().pool(request_.pool).path;
        std::vector<std::string> pools;
        for (const auto& [id, pool] : catalog().pools()) pools.push_back(pool.path);
        fs::path path(request_.path);
        if (path.is_relative()) path = fs::path(pool_) / path;
        auto open = [path = path.string(), format = request_.format, pools, user = request_.owner_uid] {
            return open_foreign_chain(path, format, pools, user);
        };
        layers_ = co_await engine_.files().run(std::move(open));
        job_->throw_if_cancelled();
        for (const ForeignLayer& layer : layers_) total_ += layer.facts.allocated;
    }

    void choose_name() {
        name_ = request_.name;
        if (!name_.empty()) return check_disk_name_free(catalog(), name_);
        std::vector<std::string> taken;
        for (const auto& [id, disk] : catalog().disks()) taken.push_back(disk.name);
        for (const std::string& name : catalog().claimed_disk_names()) taken.push_back(name);
        name_ = free_name(fs::path(request_.path).stem().string(), taken);
    }

    async::Task<> check_room() {
        auto look = [layers = layers_, pool = pool_, reflinks = engine_.pool_status(request_.pool).reflink] {
            return room_for_copy(layers, pool, reflinks);
        };
        const RoomForCopy room = co_await engine_.files().run(std::move(look));
        if (room.there < room.needed)
            throw Error(
                ErrorCode::no_space, "a copy of {} takes up to {} bytes, and {} has {}; nothing was copied",
                quote(request_.path), room.needed, catalog().describe(job_->record().subject), room.there);
    }

    void plan() {
        Json files = Json::array();
        for (const ForeignLayer& layer : layers_) {
            volumes_.push_back(Uuid::make());
            targets_.emplace_back(pool_, image_file_name(name_, volumes_.back(), format_of(layer.facts)));
            files.push_back({{"pool", pool_}, {"file", targets_.back().file}});
        }
        job_->set_plan(Json{{"files", std::move(files)}});
    }

    async::Task<> copy() {
        const Job::Copying copying(*job_);
        job_->set_under_way();
        job_->progress(0, total_);
        for (std::size_t index = 0; index < layers_.size(); ++index) {
            auto start = [layer = layers_[index], target = targets_[index], &settings = engine_.settings()] {
                return start_copy(layer, target, settings);
            };
            const bool linked = co_await engine_.files().run(std::move(start));
            if (!linked) co_await copy_layer(index);
            auto check = [layer = layers_[index], target = targets_[index]] { check_copy(layer, target); };
            co_await engine_.files().run(std::move(check));
        }
    }

    async::Task<> copy_layer(std::size_t index) {
        std::optional<std::uint64_t> position = 0;
        while (position) {
            co_await heed_wishes();
            const std::uint64_t speed = job_->speed();
            const std::uint64_t length =
                speed == 0 ? most_at_once : std::clamp(speed / 4, least_at_once, most_at_once);
            auto piece = [layer = layers_[index], target = targets_[index], from = *position, length] {
                return copy_piece(layer, target, from, length);
            };
            const std::optional<std::uint64_t> next = co_await engine_.files().run(std::move(piece));
            if (next) {
                const std::uint64_t step = std::min(*next - *position, length);
                done_ = std::min(total_, done_ + step);
                job_->progress(done_, total_);
                if (speed != 0) co_await pass_time(std::chrono::microseconds(step * 1'000'000 / speed));
            }
            position = next;
        }
    }

    /// Returns when it may go on; throws where it is cancelled.
    async::Task<> heed_wishes() {
        job_->throw_if_cancelled();
        if (!job_->pause_asked()) co_return;
        job_->halt(std::nullopt);
        while (job_->pause_asked()) {
            co_await pass_time(longest_halt);
            job_->throw_if_cancelled();
        }
        job_->go_on();
    }

    /// Unless the user wishes something.
    async::Task<> pass_time(async::Clock::duration time) {
        std::exception_ptr timeout;
        co_await async::keep_failure(job_->asked(async::after(time)), timeout);
        if (timeout && to_error(timeout).code() != ErrorCode::timeout) std::rethrow_exception(timeout);
    }

    /// From the bottom up, and each on the medium before the next: what a header names is there.
    async::Task<> rebase() {
        for (std::size_t index = layers_.size(); index-- > 0;) {
            const NewFile target = targets_[index];
            if (index + 1 < layers_.size()) co_await name_backing(target, index + 1);
            auto flush = [target] { flush_image_file(target); };
            co_await engine_.files().run(std::move(flush));
            job_->throw_if_cancelled();
        }
    }

    async::Task<> name_backing(NewFile target, std::size_t below) {
        std::vector<ImageAccess> images;
        images.emplace_back(target.path(), true);
        const qmp::QemuImg qemu_img = co_await helper_qemu_img(engine_, std::move(images));
        std::string format(word(format_of(layers_[below].facts)));
        co_await qemu_img.change_backing(target.path(), targets_[below].file, std::move(format),
                                         async::after(import_rename_limit));
    }

    /// The copies, read as any foreign image, are what is recorded.
    async::Task<std::vector<VolumeFacts>> look() {
        std::vector<VolumeFacts> all;
        for (std::size_t index = 0; index < targets_.size(); ++index) {
            auto inspect = [target = targets_[index], format = format_of(layers_[index].facts)] {
                return inspect_foreign_image(target.pool, target.file, format);
            };
            VolumeFacts facts = co_await engine_.files().run(std::move(inspect));
            const bool lowest = index + 1 == targets_.size();
            const bool right =
                lowest ? !facts.backing : facts.backing && facts.backing->path == targets_[index + 1].path();
            if (!right)
                throw Error(ErrorCode::internal, "the copy {} does not stand on what it should",
                            quote(targets_[index].path()));
            all.push_back(std::move(facts));
        }
        co_return all;
    }

    async::Task<> finish() {
        std::vector<VolumeFacts> facts = co_await look();
        DiskRecord disk;
        disk.id = Uuid::make();
        disk.name = name_;
        disk.active = volumes_.front();
        Json result;
        result["disk"] = object_json({ObjectKind::disk, disk.id});
        result["volume"] = object_json({ObjectKind::volume, disk.active});
        Changes changes;
        for (std::size_t index = 0; index < volumes_.size(); ++index) {
            changes.put(VolumeRecord{volumes_[index], disk.id, request_.pool, targets_[index].file,
                                     format_of(layers_[index].facts), now()});
            engine_.catalog().set_facts(volumes_[index], std::move(facts[index]));
        }
        changes.put(std::move(disk));
        job_->no_return();
        co_await job_->succeed(std::move(changes), std::move(result));
    }

    Engine& engine_;
    JobPtr job_;
    ImportRequest request_;
    std::string pool_;
    std::string name_;
    std::vector<ForeignLayer> layers_;  ///< topmost first, as the two below
    std::vector<Uuid> volumes_;
    std::vector<NewFile> targets_;
    std::uint64_t done_ = 0;
    std::uint64_t total_ = 0;
};

}  // namespace

async::Task<> copy_and_import(Engine& engine, JobPtr job, ImportRequest request) {
    ImportCopy operation(engine, std::move(job), std::move(request));
    co_await operation.run();
}

async::Task<> recover_import_disk(Engine& engine, JobPtr job) {
    const std::string step = job->record().step;
    ImportCopy operation(engine, std::move(job), ImportRequest(Uuid(), std::string()));
    co_await operation.undo(
        Error(ErrorCode::interrupted, "the daemon ended at step {}; nothing was imported", step));
}

std::vector<ObjectId> locks_of_import_disk(const JobRecord&) {
    return {};
}

}  // namespace volchain::storage
