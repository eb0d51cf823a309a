// SPDX-License-Identifier: MIT
//
// Jobs: the table of jobs. Starts operations, finds the unfinished ones after a restart, keeps finished ones
// for a while. The Engine owns it.
#pragma once

#include <chrono>
#include <functional>
#include <map>

#include "async/task_group.h"
#include "storage/jobs/job.h"

namespace volchain::storage {

/// The coroutine of an operation. It ends the job by succeed() or fail(); an exception that leaves it fails
/// the job.
using Operation = std::function<async::Task<>(JobPtr)>;

/// What a job is started with.
struct JobRequest {
    JobRequest(std::string what, ObjectId of, std::uint32_t uid)
        : kind(std::move(what)), subject(of), owner_uid(uid) {}

    std::string kind;
    ObjectId subject;
    std::uint32_t owner_uid;
    std::vector<ObjectId> locks;  ///< taken before the job exists: Busy is the caller's answer, not the job's
    Json plan = Json::object();
    Changes changes;  ///< written together with the job's record
};

class Jobs {
  public:
    Jobs(async::Executor executor, Catalog& catalog, Locks& locks, std::chrono::seconds keep_finished);

    /// Called when a property of a live job changed that is not in its record. One at most.
    void watch(std::function<void(Uuid)> watcher) { watcher_ = std::move(watcher); }

    /// Takes the locks, writes the record, starts the operation; the job's id. When this returns, the job is
    /// on disk.
    async::Task<Uuid> start(JobRequest request, Operation operation);

    /// The unfinished jobs of an earlier life of the daemon. Each must be given to resume() once.
    [[nodiscard]] std::vector<Uuid> unfinished() const;
    void resume(const Uuid& id, std::vector<ObjectId> locks, Operation recovery);

    /// The live job; null for one that ended before (its record is in the catalog).
    [[nodiscard]] JobPtr find(const Uuid& id) const;

    /// Starts no more jobs and waits for those that run, at most until the deadline; those that have not
    /// ended then are left to recovery.
    async::Task<> stop(async::Deadline deadline);

  private:
    async::Task<> run(JobPtr job, Operation operation);
    async::Task<> sweep();
    JobPtr add(JobRecord record, Locks::Held held);

    Catalog& catalog_;
    Locks& locks_;
    std::chrono::seconds keep_finished_;
    std::function<void(Uuid)> watcher_;
    std::map<Uuid, JobPtr> live_;
    bool stopping_ = false;
    async::TaskGroup operations_;
    async::TaskGroup housekeeping_;
};

}  // namespace volchain::storage
