// SPDX-License-Identifier: MIT
#include "storage/qemu/block_job.h"

#include <sys/statvfs.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include "base/text.h"

namespace volchain::storage {
namespace {

/// QEMU has no events for progress.
constexpr auto look_interval = std::chrono::milliseconds(500);
constexpr auto room_interval = std::chrono::seconds(1);
/// As many looks at a job that is ready, but never idle, until that is enough.
constexpr unsigned enough_ready_looks = 6;
constexpr auto end_limit = std::chrono::seconds(60);

}  // namespace

BlockJob::BlockJob(Engine& engine, JobPtr job, std::shared_ptr<qmp::Session> session, std::string id,
                   std::string written)
    : engine_(engine),
      job_(std::move(job)),
      qmp_job_(std::move(session), std::move(id)),
      written_(std::move(written)) {}

async::Task<bool> BlockJob::take_up() {
    co_await qmp_job_.attach(soon());
    if (qmp_job_.status() == qmp::JobStatus::null) co_return false;
    // The daemon's user may have said another one, before it was restarted, than was asked for first.
    speed_ = qmp_job_.found_speed();
    job_->start_speed(speed_);
    co_return true;
}

async::Task<> BlockJob::start(std::string command, Json arguments) {
    speed_ = job_->speed();
    if (command == "blockdev-mirror" || command == "blockdev-backup") {
        arguments["on-source-error"] = "stop";
        arguments["on-target-error"] = "stop";
    } else {
        arguments["on-error"] = "stop";
    }
    if (speed_ != 0) arguments["speed"] = speed_;
    co_await qmp_job_.start(std::move(command), std::move(arguments), soon());
}

async::Task<bool> BlockJob::run_until(Goal goal) {
    const Job::Copying copying(*job_);
    job_->set_under_way();
    ready_looks_ = 0;
    first_pass_ = 0;
    bool broken_off = false;
    std::exception_ptr failure;
    std::optional<bool> reached;
    while (!reached && !failure) {
        auto turn = look(goal);
        bool there = false;
        co_await async::keep_result(std::move(turn), there, failure);
        if (failure && to_error(failure).code() == ErrorCode::timeout && !qmp_job_.ended())
            failure = nullptr;
        else if (!failure)
            reached = there;
    }
    broken_off = failure && to_error(failure).code() == ErrorCode::cancelled && !qmp_job_.ended();
    if (broken_off) {
        co_await async::ignore_cancellation();
        co_await break_off();
    }
    if (failure) std::rethrow_exception(failure);
    co_return *reached;
}

/// One turn of waiting: Timeout where nothing came of it yet.
async::Task<bool> BlockJob::look(Goal goal) {
    job_->throw_if_cancelled();
    co_await grant_wishes();
    auto wish = async::first_of(reach(goal, async::after(look_interval)), job_->asked(async::no_deadline));
    std::optional<bool> reached;
    std::exception_ptr failure;
    co_await async::keep_result(std::move(wish), reached, failure);
    if (reached) co_return *reached;
    Error problem(ErrorCode::timeout, std::string("asked for something"));
    if (failure) problem = to_error(failure);
    if (problem.code() == ErrorCode::no_space) {
        co_await wait_for_room(problem);
        throw Error(ErrorCode::timeout, "going on");
    }
    if (problem.code() != ErrorCode::timeout) throw problem;
    const qmp::JobInfo info = co_await qmp_job_.query(soon());
    job_->progress(done_before_ + info.current, std::max(total_, done_before_ + info.total));
    const bool ready = goal == Goal::ready && info.status == qmp::JobStatus::ready;
    ready_looks_ = ready ? ready_looks_ + 1 : 0;
    if (ready_looks_ >= enough_ready_looks) co_return true;
    if (goal == Goal::ready) watch_guest(info);
    throw problem;
}

/// What is left to copy gets less as long as the job copies what was there when it began, however slowly. From then on it
/// is what the guest has written since: that has to get less, too, and by more than chance.
void BlockJob::watch_guest(const qmp::JobInfo& info) {
    const async::Clock::time_point now = async::Clock::now();
    const std::uint64_t left = info.total - std::min(info.current, info.total);
    if (first_pass_ == 0) {
        first_pass_ = info.total;
        least_left_ = left;
        least_left_since_ = now;
    }
    const bool copies = info.status == qmp::JobStatus::running && !paused_;
    const bool first_pass = info.current < first_pass_;
    const std::uint64_t enough = first_pass ? least_left_ : least_left_ - least_left_ / 8;
    if (!copies || left < enough) {
        least_left_ = std::min(left, least_left_);
        least_left_since_ = now;
    }
    if (now - least_left_since_ < engine_.settings().catch_up_limit) return;
    throw Error(
        ErrorCode::busy,
        "the guest writes faster than its data is copied: {} bytes are left, and they do not get less", left);
}

async::Task<bool> BlockJob::reach(Goal goal, async::Deadline deadline) {
    switch (goal) {
        case Goal::ready:
            co_return co_await qmp_job_.until_ready(deadline);
        case Goal::pending:
            co_return co_await qmp_job_.until_pending(deadline);
        case Goal::ended:
            break;
    }
    co_await qmp_job_.until_ended(deadline);
    co_return true;
}

async::Task<> BlockJob::grant_wishes() {
    // One that has copied everything cannot be paused any more, nor made faster, and need not be.
    const qmp::JobStatus status = qmp_job_.status();
    const bool copies = status == qmp::JobStatus::running || status == qmp::JobStatus::ready;
    if ((copies || paused_) && speed_ != job_->speed()) {
        speed_ = job_->speed();
        co_await qmp_job_.set_speed(speed_, soon());
    }
    if (paused_ == job_->pause_asked()) co_return;
    if (!paused_ && !copies) co_return;
    paused_ = job_->pause_asked();
    if (paused_) {
        co_await qmp_job_.pause(soon());
        job_->halt(std::nullopt);
    } else {
        co_await qmp_job_.resume(soon());
        job_->go_on();
    }
}

async::Task<std::uint64_t> BlockJob::room() {
    auto work = [path = written_] {
        struct statvfs status {};
        const std::string directory = std::filesystem::path(path).parent_path().string();
        if (::statvfs(directory.c_str(), &status) < 0)
            throw system_error(errno, "cannot look at the file system of " + quote(directory));
        return std::uint64_t{status.f_bavail} * status.f_frsize;
    };
    co_return co_await engine_.files().run(std::move(work));
}

async::Task<> BlockJob::wait_for_room(Error why) {
    const std::uint64_t room_then = co_await room();
    Error problem(
        ErrorCode::no_space,
        "the file system of {} is full; the copying goes on by itself when there is room, or when the job is "
        "resumed, and can be cancelled ({})",
        quote(written_), why.what());
    job_->log().warning("{} waits: {}", job_->record().kind, problem.what());
    job_->halt(std::move(problem));
    while (true) {
        std::exception_ptr timeout;
        co_await async::keep_failure(job_->asked(async::after(room_interval)), timeout);
        job_->throw_if_cancelled();
        const std::uint64_t room_now = co_await room();
        if (room_now > room_then || !timeout) break;
    }
    co_await qmp_job_.resume(soon());
    job_->go_on();
}

async::Task<> BlockJob::mirror(std::string source, std::string target, std::string sync) {
    Json arguments;
    arguments["device"] = std::move(source);
    arguments["target"] = std::move(target);
    arguments["sync"] = std::move(sync);
    co_await start("blockdev-mirror", std::move(arguments));
    const bool ready = co_await run_until(Goal::ready);
    if (ready) co_await complete();
    co_await finish(async::after(end_limit));
    if (!ready) throw Error(ErrorCode::qemu_failed, "the mirror ended before it was complete");
}

async::Task<> BlockJob::complete() {
    return qmp_job_.complete(soon());
}
async::Task<> BlockJob::finalize() {
    return qmp_job_.finalize(soon());
}
async::Task<> BlockJob::finish(async::Deadline deadline) {
    return qmp_job_.finish(deadline);
}

async::Task<> BlockJob::break_off() {
    std::exception_ptr ignored;
    if (!qmp_job_.ended()) co_await async::keep_failure(qmp_job_.cancel(soon()), ignored);
    co_await async::keep_failure(qmp_job_.finish(async::after(end_limit)), ignored);
}

}  // namespace volchain::storage
