// SPDX-License-Identifier: MIT
#include "storage/jobs/job.h"

#include "base/failpoint.h"
#include "base/text.h"

namespace volchain::storage {
namespace {

/// VOLCHAIN_VM, VOLCHAIN_DISK, ...: the journal field of a kind of object.
std::string_view journal_field(ObjectKind kind) {
    switch (kind) {
        case ObjectKind::pool:
            return "VOLCHAIN_POOL";
        case ObjectKind::disk:
            return "VOLCHAIN_DISK";
        case ObjectKind::volume:
            return "VOLCHAIN_VOLUME";
        case ObjectKind::vm:
            return "VOLCHAIN_VM";
        case ObjectKind::snapshot:
            return "VOLCHAIN_SNAPSHOT";
        case ObjectKind::exported:
            return "VOLCHAIN_EXPORT";
        case ObjectKind::backup:
            return "VOLCHAIN_BACKUP";
        case ObjectKind::schedule:
            return "VOLCHAIN_SCHEDULE";
        case ObjectKind::job:
            return "VOLCHAIN_JOB";
    }
    return "VOLCHAIN_OBJECT";
}

constexpr auto write_retry = std::chrono::seconds(1);

}  // namespace

Job::Job(Catalog& catalog, Locks::Held locks, JobRecord record, std::function<void()> on_change)
    : catalog_(catalog),
      locks_(std::move(locks)),
      record_(std::move(record)),
      on_change_(std::move(on_change)) {
    log_ = volchain::log()
               .with("VOLCHAIN_JOB", record_.id.str())
               .with(journal_field(record_.subject.kind), record_.subject.id.str());
}

void Job::cancel() {
    if (finished(record_.state))
        throw Error(ErrorCode::unsupported, "job {} ({}) has already {}", id().str(), record_.kind,
                    record_.state == JobState::cancelled ? "been cancelled" : word(record_.state));
    if (!cancellable_)
        throw Error(ErrorCode::unsupported,
                    "job {} ({}, step {}) is past the point where it could be undone; it will be finished",
                    id().str(), record_.kind, record_.step);
    cancel_asked_ = true;
    record_.state = JobState::cancelling;
    cancelled_.notify();
    asked_.notify();
    on_change_();
}

void Job::pause() {
    if (copying_ == 0 || finished(record_.state))
        throw Error(ErrorCode::unsupported, "job {} ({}, step {}) copies nothing that could be paused",
                    id().str(), record_.kind, record_.step);
    pause_asked_ = true;
    asked_.notify();
}

void Job::resume() {
    if (record_.state != JobState::paused && !pause_asked_)
        throw Error(ErrorCode::unsupported, "job {} ({}) is not paused", id().str(), record_.kind);
    pause_asked_ = false;
    asked_.notify();
}

void Job::set_speed(std::uint64_t bytes_per_second) {
    if (finished(record_.state))
        throw Error(ErrorCode::unsupported, "job {} ({}) has ended", id().str(), record_.kind);
    speed_said_ = bytes_per_second;
    asked_.notify();
    on_change_();
}

void Job::start_speed(std::uint64_t bytes_per_second) {
    start_speed_ = bytes_per_second;
    on_change_();
}

Job::Copying::~Copying() {
    if (--job_->copying_ > 0) return;
    job_->pause_asked_ = false;
    job_->go_on();
}

void Job::halt(std::optional<Error> why) {
    if (record_.state != JobState::running) return;
    record_.state = JobState::paused;
    record_.error = std::move(why);
    on_change_();
}

void Job::go_on() {
    if (record_.state != JobState::paused) return;
    record_.state = JobState::running;
    record_.error.reset();
    on_change_();
}

async::Task<> Job::wait(async::Deadline deadline) {
    while (!finished(record_.state))
        co_await ended_.wait(deadline, fmt::format("the end of job {}", id().str()));
}

async::Task<> Job::wait_settled(async::Deadline deadline) {
    while (!finished(record_.state) && !under_way_)
        co_await settled_.wait(deadline, fmt::format("job {} to be settled", id().str()));
}

void Job::set_under_way() {
    under_way_ = true;
    settled_.notify();
}

void Job::throw_if_cancelled() const {
    if (cancel_asked_) throw Error(ErrorCode::cancelled, "{} was stopped by its user", record_.kind);
}

async::Task<> Job::mark(std::string name) {
    record_.step = std::move(name);
    log_.debug("{}: {}", record_.kind, record_.step);
    Changes changes;
    changes.put(record_);
    co_await catalog_.commit(std::move(changes), Durability::process);
    failpoint(fmt::format("{}.{}", record_.kind, record_.step));
}

async::Task<> Job::step(std::string name) {
    throw_if_cancelled();
    co_await mark(std::move(name));
    throw_if_cancelled();
}

async::Task<> Job::undo_step(std::string name) {
    cancellable_ = false;
    co_await mark(std::move(name));
}

async::Task<> Job::begin_undo() {
    std::exception_ptr failure;
    co_await async::keep_failure(undo_step("undo"), failure);
    if (failure) log().warning("undoing, though it cannot be noted: {}", to_error(failure).what());
}

void Job::pass(std::string name) {
    record_.step = std::move(name);
    failpoint(fmt::format("{}.{}", record_.kind, record_.step));
}

void Job::no_return() {
    throw_if_cancelled();
    cancellable_ = false;
    on_change_();
}

void Job::may_be_cancelled() {
    cancellable_ = true;
    on_change_();
}

void Job::progress(std::uint64_t done, std::uint64_t total) {
    if (record_.done_bytes == done && record_.total_bytes == total) return;
    record_.done_bytes = done;
    record_.total_bytes = total;
    on_change_();
}

async::Task<> Job::succeed(Changes changes, Json result) {
    record_.error.reset();
    record_.result = std::move(result);
    co_await end(std::move(changes), JobState::succeeded);
    log_.info("{} done", record_.kind);
}

async::Task<> Job::fail(Changes changes, Error error) {
    const bool cancelled = error.code() == ErrorCode::cancelled;
    const JobState state = cancelled ? JobState::cancelled : JobState::failed;
    record_.error = error.during(fmt::format("{} of {}", record_.kind, catalog_.describe(record_.subject)));
    co_await end(std::move(changes), state);
    if (cancelled)
        log_.info("{} cancelled", record_.kind);
    else
        log_.warning("failed: {}", record_.error->what());
}

async::Task<> Job::end(Changes changes, JobState state) {
    JobRecord last = record_;
    last.state = state;
    last.finished = now();
    last.plan = Json::object();
    changes.put(last);
    for (bool complained = false;; complained = true) {
        std::exception_ptr failure;
        co_await async::keep_failure(catalog_.commit(changes, Durability::power), failure);
        if (!failure) break;
        const Error problem = to_error(failure);
        // Trying again does not help against a change that contradicts the other records, which is a mistake
        // of ours.
        if (problem.code() == ErrorCode::already_exists) throw problem;
        if (!complained)
            log_.error("{} waits until its end can be written: {}", record_.kind, problem.what());
        co_await async::sleep_until(async::after(write_retry));
    }
    record_ = std::move(last);
    // Before anybody hears of the end: whoever does may come with the next operation at once.
    locks_.release();
    ended_.notify();
    settled_.notify();
    on_change_();
}

}  // namespace volchain::storage
