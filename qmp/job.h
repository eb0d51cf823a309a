// SPDX-License-Identifier: MIT
//
// Job: one background job of a QEMU or a storage daemon (blockdev-create, block-commit, block-stream,
// blockdev-mirror, blockdev-backup), from its start to its dismissal. Its state is followed by events and
// asked for only where an event cannot tell. The operation that started the job owns this; when it goes, the
// job runs on in QEMU, and can be taken up again by its id, in a new session too.
//
//     Job job(session, "volchain-commit-1");
//     co_await job.start("block-commit", std::move(arguments), soon);
//     if (co_await job.until_ready(limit)) co_await job.complete(soon);
//     co_await job.finish(soon);
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>

#include "async/condition.h"
#include "base/enum_names.h"
#include "qmp/session.h"

namespace volchain::qmp {

/// JobStatus; `null` is also what a job has that does not exist (any more), `undefined` one that nothing is
/// known of yet.
enum class JobStatus {
    undefined,
    created,
    running,
    paused,
    ready,
    standby,
    waiting,
    pending,
    aborting,
    concluded,
    null
};
constexpr auto enum_names(JobStatus) {
    return std::to_array<EnumName<JobStatus>>({{JobStatus::undefined, "undefined"},
                                               {JobStatus::created, "created"},
                                               {JobStatus::running, "running"},
                                               {JobStatus::paused, "paused"},
                                               {JobStatus::ready, "ready"},
                                               {JobStatus::standby, "standby"},
                                               {JobStatus::waiting, "waiting"},
                                               {JobStatus::pending, "pending"},
                                               {JobStatus::aborting, "aborting"},
                                               {JobStatus::concluded, "concluded"},
                                               {JobStatus::null, "null"}});
}

/// An answer of query-jobs. The unit of progress is the job's own, and the total may grow.
struct JobInfo {
    JobStatus status = JobStatus::null;
    std::uint64_t current = 0;
    std::uint64_t total = 0;
    std::string error;  ///< of a job that failed, once it is concluded
};

class Job {
  public:
    /// Follows the job of that id from now on: make it before the job is started.
    Job(std::shared_ptr<Session> session, std::string id);
    Job(const Job&) = delete;
    Job& operator=(const Job&) = delete;

    /// Runs the command that starts the job, with our id, and so that it stays until it is dismissed: without
    /// that, a failed job vanishes together with its reason.
    async::Task<> start(std::string command, Json arguments, async::Deadline deadline);
    /// Takes up a job that was started before: asks for its state, as its events were missed. A status of
    /// `null` afterwards means that there is no such job.
    async::Task<> attach(async::Deadline deadline);
    /// Bytes per second, of a block job that attach() has found.
    [[nodiscard]] std::uint64_t found_speed() const noexcept { return found_speed_; }

    [[nodiscard]] const std::string& id() const noexcept { return id_; }
    [[nodiscard]] JobStatus status() const noexcept { return status_; }
    /// Whether it has come to its end, good or bad.
    [[nodiscard]] bool ended() const noexcept {
        return status_ == JobStatus::concluded || status_ == JobStatus::null;
    }
    /// query-jobs, for the job of this id.
    async::Task<JobInfo> query(async::Deadline deadline);

    // The waits throw Timeout at the deadline; Unreachable when the session is lost; and where the job has
    // stopped itself after an I/O error (on-error=stop), NoSpace or QemuFailed: it stays paused, and resume()
    // lets it try again.

    /// True when the job (active commit, mirror) is ready to be completed: it says so, and has copied all
    /// there is. A job may say "ready" with work left, and fall back. False when it has ended before.
    async::Task<bool> until_ready(async::Deadline deadline);
    /// True when the job waits for finalize() (auto-finalize=false), false when it has ended before.
    async::Task<bool> until_pending(async::Deadline deadline);
    async::Task<> until_ended(async::Deadline deadline);
    /// Waits for the end, dismisses the job, and throws what made it fail: NoSpace where its words say so,
    /// Cancelled where it was cancelled, else QemuFailed.
    async::Task<> finish(async::Deadline deadline);

    async::Task<> complete(async::Deadline deadline);
    async::Task<> finalize(async::Deadline deadline);
    async::Task<> pause(async::Deadline deadline);
    async::Task<> resume(async::Deadline deadline);
    async::Task<> dismiss(async::Deadline deadline);
    /// Breaks the job off. It ends as failed; finish() then throws Cancelled.
    async::Task<> cancel(async::Deadline deadline);
    /// Ends a mirror that is ready without switching to its target, which keeps the data of this moment
    /// (block-job-cancel without force).
    async::Task<> leave(async::Deadline deadline);
    /// Bytes per second; 0 is without limit. Block jobs only.
    async::Task<> set_speed(std::uint64_t bytes_per_second, async::Deadline deadline);

  private:
    void take(const Event& event);
    [[nodiscard]] async::Task<> until(JobStatus wanted, async::Deadline deadline);
    [[nodiscard]] async::Task<Error> why_stopped(async::Deadline deadline);
    [[nodiscard]] async::Task<> tell(std::string command, async::Deadline deadline);

    std::shared_ptr<Session> session_;
    std::string id_;
    JobStatus status_ = JobStatus::undefined;
    std::uint64_t changes_ = 0;  ///< events that told a status
    std::uint64_t found_speed_ = 0;
    std::string stopped_by_;  ///< the operation ("write") whose error has paused the job; empty: none has
    async::Condition changed_;
    Subscription subscription_;
};

}  // namespace volchain::qmp
