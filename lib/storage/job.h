// SPDX-License-Identifier: MIT
//
// Job: one operation under way, as its operation, its users and its recovery see it. The record (kind, state,
// step, plan, result) is on disk; progress and who waits are only here. The Jobs table (jobs.h) owns it,
// together with the operation's coroutine; others share it while they wait.
//
// The life of an operation:  step("a") ... step("b") ... no_return() ... step("c") ... succeed(changes,
// result)
//  - Each step is on disk before it is done, and begins with a failpoint "<kind>.<step>".
//  - Until no_return() a cancel makes the next step() or or_cancel() throw Cancelled; the operation undoes
//  what it did.
//  - succeed() and fail() write the operation's last changes together with the end of the job: one truth, one
//  commit.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "async/condition.h"
#include "async/deadline.h"
#include "base/log.h"
#include "storage/catalog.h"
#include "storage/locks.h"

namespace volchain::storage {

class Job {
  public:
    Job(Catalog& catalog, Locks::Held locks, JobRecord record, std::function<void()> on_change);
    Job(const Job&) = delete;
    Job& operator=(const Job&) = delete;

    // --- for everybody ---
    [[nodiscard]] const JobRecord& record() const noexcept { return record_; }
    [[nodiscard]] const Uuid& id() const noexcept { return record_.id; }
    [[nodiscard]] bool cancellable() const noexcept { return cancellable_ && !finished(record_.state); }
    /// Asks the operation to undo itself. Unsupported where it cannot be undone any more or has ended.
    void cancel();
    /// Returns when the job has ended.
    async::Task<> wait(async::Deadline deadline);

    // --- for its operation ---
    /// The next step: on disk, then the failpoint. Throws Cancelled where the user asked for it in time.
    async::Task<> step(std::string name);
    /// The same for steps that are part of undoing: a cancel does not stop them.
    async::Task<> undo_step(std::string name);
    /// A step in a hurry: no record, only the failpoint. Recovery finds the step before it.
    void pass(std::string name);
    /// What recovery needs, written with the next step or changes.
    void set_plan(Json plan) { record_.plan = std::move(plan); }
    /// From here on the operation can only be finished.
    void no_return();
    void throw_if_cancelled() const;
    /// Waits for `operation`, which may be abandoned at any point, or throws Cancelled as soon as the user
    /// asks.
    template <typename T>
    async::Task<T> or_cancel(async::Task<T> operation);
    void progress(std::uint64_t done, std::uint64_t total);

    /// The end. `changes` are what the operation changes with it. Does not fail: while the state directory
    /// cannot be written, the job stays where it is and tries again. What is told of an error begins with the
    /// job's kind and subject.
    async::Task<> succeed(Changes changes, Json result);
    async::Task<> fail(Changes changes, Error error);

    /// Log entries carry VOLCHAIN_JOB and the subject's field (VOLCHAIN_VM, ...).
    [[nodiscard]] const Logger& log() const noexcept { return log_; }

  private:
    async::Task<> mark(std::string name);
    async::Task<> end(Changes changes, JobState state);

    Catalog& catalog_;
    Locks::Held locks_;
    JobRecord record_;
    std::function<void()> on_change_;
    Logger log_;
    bool cancellable_ = true;
    bool cancel_asked_ = false;
    async::Condition ended_;
    async::Condition cancelled_;
};

using JobPtr = std::shared_ptr<Job>;

template <typename T>
async::Task<T> Job::or_cancel(async::Task<T> operation) {
    throw_if_cancelled();
    auto value =
        co_await async::first_of(std::move(operation), cancelled_.wait(async::no_deadline, "a cancel"));
    if (!value) throw_if_cancelled();
    if constexpr (!std::is_void_v<T>) co_return *std::move(value);
}

}  // namespace volchain::storage
