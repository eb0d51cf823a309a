// SPDX-License-Identifier: MIT
#include "qmp/job.h"

#include <algorithm>

#include "base/log.h"
#include "base/text.h"

namespace volchain::qmp {
namespace {

/// How often a job is asked that says it is ready and has work left: no event tells when that is done.
constexpr auto first_look = std::chrono::milliseconds(20);
constexpr auto last_look = std::chrono::milliseconds(500);

JobStatus parse_status(const JsonReader& status) {
    return from_word<JobStatus>(status.string()).value_or(JobStatus::undefined);
}

JobInfo parse_info(const Json& answer, const std::string& id) {
    for (const JsonReader& job :
         JsonReader(answer, "answer of query-jobs", ErrorCode::qemu_failed).elements()) {
        if (job.at("id").string() != id) continue;
        JobInfo info;
        info.status = parse_status(job.at("status"));
        info.current = job.u64_or("current-progress", 0);
        info.total = job.u64_or("total-progress", 0);
        info.error = job.string_or("error", "");
        return info;
    }
    return {};
}

struct BlockJobInfo {
    std::string io_status = "ok";  ///< or "nospace", "failed"
    std::uint64_t speed = 0;
};

BlockJobInfo parse_block_job(const Json& answer, const std::string& id) {
    for (const JsonReader& job :
         JsonReader(answer, "answer of query-block-jobs", ErrorCode::qemu_failed).elements())
        if (job.at("device").string() == id)
            return {job.string_or("io-status", "ok"), job.u64_or("speed", 0)};
    return {};
}

}  // namespace

Job::Job(std::shared_ptr<Session> session, std::string id)
    : session_(std::move(session)), id_(std::move(id)) {
    subscription_ =
        session_->subscribe([this](const Event& event) { take(event); }, [this] { changed_.notify(); });
}

void Job::take(const Event& event) {
    const JsonReader data = event.read();
    if (event.name == "JOB_STATUS_CHANGE" && data.at("id").string() == id_) {
        status_ = parse_status(data.at("status"));
        ++changes_;
        changed_.notify();
    } else if (event.name == "BLOCK_JOB_ERROR" && data.at("device").string() == id_ &&
               data.at("action").string() == "stop") {
        stopped_by_ = data.string_or("operation", "input or output");
        changed_.notify();
    }
}

async::Task<> Job::start(std::string command, Json arguments, async::Deadline deadline) {
    arguments["job-id"] = id_;
    // blockdev-create has no such argument: its jobs always stay.
    if (command != "blockdev-create") arguments["auto-dismiss"] = false;
    (void)co_await session_->execute(std::move(command), std::move(arguments), deadline);
}

async::Task<> Job::attach(async::Deadline deadline) {
    const std::uint64_t changes_before = changes_;
    const JobInfo info = co_await query(deadline);
    if (changes_ == changes_before) status_ = info.status;  // else the event is the newer news
    const Json block_jobs = co_await session_->execute("query-block-jobs", Json::object(), deadline);
    const BlockJobInfo found = parse_block_job(block_jobs, id_);
    found_speed_ = found.speed;
    if (stopped_by_.empty() && found.io_status != "ok") stopped_by_ = "input or output";
}

async::Task<JobInfo> Job::query(async::Deadline deadline) {
    const Json answer = co_await session_->execute("query-jobs", Json::object(), deadline);
    co_return parse_info(answer, id_);
}

// --- waiting -----------------------------------------------------------------------------------------------

/// Until the job has that status, or has ended.
async::Task<> Job::until(JobStatus wanted, async::Deadline deadline) {
    while (status_ != wanted && !ended()) {
        if (session_->closed()) {
            const Error lost = co_await session_->loss();
            throw lost.during(fmt::format("waiting for job {}", quote(id_)));
        }
        if (!stopped_by_.empty()) {
            const Error stopped = co_await why_stopped(deadline);
            throw stopped;
        }
        co_await changed_.wait(deadline, fmt::format("job {} to be {}", quote(id_), word(wanted)));
    }
}

async::Task<Error> Job::why_stopped(async::Deadline deadline) {
    const Json block_jobs = co_await session_->execute("query-block-jobs", Json::object(), deadline);
    const bool no_space = parse_block_job(block_jobs, id_).io_status == "nospace";
    co_return Error(no_space ? ErrorCode::no_space : ErrorCode::qemu_failed,
                    "job {} has paused after a {} error{}; it goes on when that is mended and it is resumed",
                    quote(id_), stopped_by_, no_space ? " for lack of space" : "");
}

async::Task<bool> Job::until_ready(async::Deadline deadline) {
    async::Clock::duration pause = first_look;
    while (true) {
        co_await until(JobStatus::ready, deadline);
        if (ended()) co_return false;
        const JobInfo info = co_await query(deadline);
        if (info.status == JobStatus::ready && info.current == info.total) co_return true;
        if (async::Clock::now() >= deadline)
            throw Error(ErrorCode::timeout,
                        "timed out waiting for job {} to have copied everything: {} of {} are done",
                        quote(id_), info.current, info.total);
        co_await async::sleep_until(std::min(deadline, async::after(pause)));
        pause = std::min<async::Clock::duration>(2 * pause, last_look);
    }
}

async::Task<bool> Job::until_pending(async::Deadline deadline) {
    co_await until(JobStatus::pending, deadline);
    co_return !ended();
}

async::Task<> Job::until_ended(async::Deadline deadline) {
    co_await until(JobStatus::concluded, deadline);
}

async::Task<> Job::finish(async::Deadline deadline) {
    co_await until_ended(deadline);
    JobInfo info;
    if (status_ != JobStatus::null) info = co_await query(deadline);
    if (info.status != JobStatus::concluded)
        throw Error(ErrorCode::qemu_failed, "job {} is gone, and how it ended is not known", quote(id_));
    try {
        co_await dismiss(deadline);
    } catch (const CommandError& error) {
        log().warning("job {} stays in QEMU's list: {}", quote(id_), error.what());
    }
    if (info.error.empty()) co_return;
    // A cancelled job's error is strerror(ECANCELED) (job_update_rc() in job.c).
    const bool cancelled = info.error == "Operation canceled";
    throw Error(cancelled ? ErrorCode::cancelled : code_of_words(info.error), "job {} failed: {}", quote(id_),
                clipped(info.error, 1000));
}

// --- telling it what to do ---------------------------------------------------------------------------------

async::Task<> Job::tell(std::string command, async::Deadline deadline) {
    Json arguments;
    arguments["id"] = id_;
    (void)co_await session_->execute(std::move(command), std::move(arguments), deadline);
}

async::Task<> Job::complete(async::Deadline deadline) {
    return tell("job-complete", deadline);
}
async::Task<> Job::finalize(async::Deadline deadline) {
    return tell("job-finalize", deadline);
}
async::Task<> Job::pause(async::Deadline deadline) {
    return tell("job-pause", deadline);
}
async::Task<> Job::dismiss(async::Deadline deadline) {
    return tell("job-dismiss", deadline);
}
async::Task<> Job::cancel(async::Deadline deadline) {
    return tell("job-cancel", deadline);
}

async::Task<> Job::resume(async::Deadline deadline) {
    // Before the command: an error that comes after it is a new one.
    const std::string stopped_by = std::exchange(stopped_by_, {});
    std::exception_ptr failure;
    try {
        co_await tell("job-resume", deadline);
    } catch (...) {
        failure = std::current_exception();
    }
    if (!failure) co_return;
    if (stopped_by_.empty()) stopped_by_ = stopped_by;
    std::rethrow_exception(failure);
}

async::Task<> Job::leave(async::Deadline deadline) {
    Json arguments;
    arguments["device"] = id_;
    (void)co_await session_->execute("block-job-cancel", std::move(arguments), deadline);
}

async::Task<> Job::set_speed(std::uint64_t bytes_per_second, async::Deadline deadline) {
    Json arguments;
    arguments["device"] = id_;
    arguments["speed"] = bytes_per_second;
    (void)co_await session_->execute("block-job-set-speed", std::move(arguments), deadline);
}

}  // namespace volchain::qmp
