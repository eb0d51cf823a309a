// SPDX-License-Identifier: MIT
#include "storage/checks/check_disk.h"

#include <iterator>

#include "base/text.h"
#include "storage/checks/bitmap_findings.h"
#include "storage/checks/disk_view.h"
#include "storage/checks/graph_findings.h"
#include "storage/checks/image_check.h"
#include "storage/checks/mark_findings.h"
#include "storage/checks/mending.h"
#include "storage/checks/record_findings.h"
#include "storage/checks/stray_files.h"
#include "storage/jobs/presence.h"

namespace volchain::storage {
namespace {

class CheckDisk {
  public:
    CheckDisk(Engine& engine, JobPtr job)
        : engine_(engine), job_(std::move(job)), view_(job_->record().subject.id) {}

    async::Task<> run(bool repair) {
        co_await job_->step("look");
        view_ = co_await look_at_disk(engine_, view_.disk, job_->id());
        find_in_records(catalog(), view_, findings_);
        find_marks(catalog(), view_, findings_);
        find_in_graph(catalog(), view_, findings_);
        find_bitmaps(catalog(), view_, findings_);
        co_await job_->step("images");
        co_await check_images();
        co_await job_->step("files");
        Findings strays = co_await job_->or_cancel(find_stray_files(engine_, view_));
        std::move(strays.begin(), strays.end(), std::back_inserter(findings_));
        if (repair) co_await mend();
        Json records = Json::array();
        for (const Finding& finding : findings_) records.push_back(finding.json());
        Json result;
        result["findings"] = list_json(std::move(records));
        co_await job_->succeed(Changes{}, std::move(result));
    }

  private:
    [[nodiscard]] const Catalog& catalog() const noexcept { return engine_.catalog(); }

    async::Task<> check_images() {
        const std::vector<Uuid> volumes = catalog().volumes_of_disk(view_.disk);
        std::uint64_t total = 0;
        for (const Uuid& volume : volumes) total += checkable_bytes(catalog(), view_, volume);
        std::uint64_t done = 0;
        for (const Uuid& volume : volumes) {
            job_->throw_if_cancelled();
            job_->progress(done, total);
            const std::uint64_t bytes = checkable_bytes(catalog(), view_, volume);
            auto check = check_image(engine_, volume, view_.look(volume), written_in_vm(volume));
            Findings found = co_await job_->or_cancel(std::move(check));
            std::move(found.begin(), found.end(), std::back_inserter(findings_));
            done += bytes;
        }
        job_->progress(done, total);
    }

    [[nodiscard]] bool written_in_vm(const Uuid& volume) const {
        const qmp::Node* const node = view_.qemu.layer(catalog().path(catalog().volume(volume)));
        return node != nullptr && !node->read_only;
    }

    /// Only qemu-img is broken off by a cancel: what changes records comes to its end.
    async::Task<> attempt(Mending& mending, Finding finding) {
        if (finding.remedy == Remedy::free_leaks)
            co_await job_->or_cancel(mending.mend(std::move(finding)));
        else
            co_await mending.mend(std::move(finding));
    }

    async::Task<> mend() {
        co_await job_->step("repair");
        Mending mending(engine_, view_);
        for (std::size_t i = 0; i < findings_.size(); ++i) {
            if (findings_[i].remedy == Remedy::none) continue;
            job_->throw_if_cancelled();
            std::exception_ptr failure;
            co_await async::keep_failure(attempt(mending, findings_[i]), failure);
            findings_[i].repaired = !failure;
            if (!failure) continue;
            const Error error = to_error(failure);
            if (error.code() == ErrorCode::cancelled) throw error;
            findings_[i].message += fmt::format("; it could not be mended: {}", error.what());
        }
    }

    Engine& engine_;
    JobPtr job_;
    DiskView view_;
    Findings findings_;
};

async::Task<> run_check(Engine& engine, JobPtr job, bool repair) {
    CheckDisk operation(engine, std::move(job));
    co_await operation.run(repair);
}

}  // namespace

async::Task<Uuid> check_disk(Engine& engine, CheckRequest request) {
    const Uuid vm = engine.catalog().disk(request.disk).vm;
    JobRequest job("check-disk", {ObjectKind::disk, request.disk}, request.owner_uid);
    job.locks = disk_and_vm(request.disk, vm);
    job.plan = Json{{"vm", vm.str()}, {"repair", request.repair}};
    Operation operation = [&engine, repair = request.repair](JobPtr started) {
        return run_check(engine, std::move(started), repair);
    };
    co_return co_await engine.jobs().start(std::move(job), std::move(operation));
}

async::Task<> recover_check_disk(Engine&, JobPtr job) {
    const JsonReader plan(job->record().plan, "plan of job " + job->id().str(), ErrorCode::internal);
    const bool repair = plan.at("repair").boolean();
    Error reason(ErrorCode::interrupted, "the daemon ended at step {}{}; check it again", job->record().step,
                 repair ? "; what was mended stays so, and nothing is half done" : "");
    co_await job->fail(Changes{}, std::move(reason));
}

std::vector<ObjectId> locks_of_check_disk(const JobRecord& job) {
    const JsonReader plan(job.plan, "plan of job " + job.id.str(), ErrorCode::internal);
    return disk_and_vm(job.subject.id, id_in(plan.at("vm")));
}

}  // namespace volchain::storage
