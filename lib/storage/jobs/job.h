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
#include <utility>

#include "async/condition.h"
#include "async/deadline.h"
#include "base/log.h"
#include "storage/jobs/locks.h"
#include "storage/records/catalog.h"

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
    /// Lets the copying under way stand still, or go on; also on after it has stopped itself (see halt()). Unsupported
    /// where nothing is being copied.
    void pause();
    void resume();
    /// How fast it may copy, in bytes a second; 0: without limit. It holds for whatever the job still copies.
    void set_speed(std::uint64_t bytes_per_second);
    [[nodiscard]] std::uint64_t speed() const noexcept { return speed_said_.value_or(start_speed_); }
    /// Returns when the job has ended.
    async::Task<> wait(async::Deadline deadline);
    /// Returns when it has ended or is under way.
    async::Task<> wait_settled(async::Deadline deadline);

    // --- for its operation ---
    /// The speed until its user says one: that was asked for with the operation, or that a copy is found to have after a restart.
    void start_speed(std::uint64_t bytes_per_second);
    /// The next step: on disk, then the failpoint. Throws Cancelled where the user asked for it in time.
    async::Task<> step(std::string name);
    /// The same for steps that are part of undoing: a cancel does not stop them.
    async::Task<> undo_step(std::string name);
    /// The step "undo". Where that cannot be written it is logged: to end the job means to undo, at whatever step it was.
    async::Task<> begin_undo();
    /// The same for steps that must be done once the ones before are.
    async::Task<> step_through(std::string name) { return mark(std::move(name)); }
    /// While it lives, a cancel is refused: between a switch and the records that follow it.
    class [[nodiscard]] Unstoppable {
      public:
        explicit Unstoppable(Job& job) : job_(&job), before_(std::exchange(job.cancellable_, false)) {
            job.throw_if_cancelled();
        }
        Unstoppable(const Unstoppable&) = delete;
        Unstoppable& operator=(const Unstoppable&) = delete;
        ~Unstoppable() { job_->cancellable_ = before_; }

      private:
        Job* job_;
        bool before_;
    };
    /// The record as it is now, with its plan, among the changes that an operation commits.
    void put_record(Changes& changes) const { changes.put(record_); }
    /// A step in a hurry: no record, only the failpoint. Recovery finds the step before it.
    void pass(std::string name);
    /// What recovery needs, written with the next step or changes.
    void set_plan(Json plan) { record_.plan = std::move(plan); }
    /// From here on the operation can only be finished.
    void no_return();
    /// From here to the next no_return() a cancel is heeded again: the operation is finished without what it leaves out then.
    void may_be_cancelled();
    void throw_if_cancelled() const;
    /// Waits for `operation`, which may be abandoned at any point, or throws Cancelled as soon as the user
    /// asks.
    template <typename T>
    async::Task<T> or_cancel(async::Task<T> operation);
    void progress(std::uint64_t done, std::uint64_t total);

    // --- for what copies on its behalf (block_job.h) ---
    /// While it lives, the job can be paused.
    class [[nodiscard]] Copying {
      public:
        explicit Copying(Job& job) : job_(&job) { ++job_->copying_; }
        Copying(const Copying&) = delete;
        Copying& operator=(const Copying&) = delete;
        ~Copying();

      private:
        Job* job_;
    };
    /// The copy was begun, or taken up as it was found after a restart: from now on it takes as long as it takes.
    void set_under_way();
    [[nodiscard]] bool pause_asked() const noexcept { return pause_asked_; }
    /// Returns when the user has asked for something: a pause, another speed, a cancel. Timeout at the deadline.
    async::Task<> asked(async::Deadline deadline) { return asked_.wait(deadline, "a wish of the user"); }
    /// The copying stands still; `why`: none where the user wished so. Shown as state "paused", with the error.
    void halt(std::optional<Error> why);
    void go_on();

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
    bool pause_asked_ = false;
    std::uint64_t start_speed_ = 0;
    std::optional<std::uint64_t> speed_said_;  ///< by its user, in this life of the daemon
    unsigned copying_ = 0;
    bool under_way_ = false;
    async::Condition ended_;
    async::Condition settled_;
    async::Condition cancelled_;
    async::Condition asked_;
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
