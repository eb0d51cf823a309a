// SPDX-License-Identifier: MIT
#include "storage/jobs/jobs.h"

namespace volchain::storage {
namespace {

constexpr auto sweep_interval = std::chrono::minutes(10);

}  // namespace

Jobs::Jobs(async::Executor executor, Catalog& catalog, Locks& locks, std::chrono::seconds keep_finished)
    : catalog_(catalog),
      locks_(locks),
      keep_finished_(keep_finished),
      operations_(executor),
      housekeeping_(executor) {
    housekeeping_.spawn(sweep(), "forgetting finished jobs");
}

JobPtr Jobs::add(JobRecord record, Locks::Held held) {
    const Uuid id = record.id;
    auto changed = [this, id] {
        if (watcher_) watcher_(id);
    };
    auto job = std::make_shared<Job>(catalog_, std::move(held), std::move(record), std::move(changed));
    live_[id] = job;
    return job;
}

async::Task<Uuid> Jobs::start(JobRequest request, Operation operation) {
    JobRecord record;
    record.id = Uuid::make();
    record.kind = request.kind;
    record.subject = request.subject;
    record.state = JobState::running;
    record.step = "record";
    record.started = now();
    record.owner_uid = request.owner_uid;
    record.plan = std::move(request.plan);

    if (stopping_)
        throw Error(ErrorCode::cancelled, "{} is not started any more: shutting down", request.kind);
    auto held = locks_.take(std::move(request.locks), request.kind, record.id);
    request.changes.put(record);
    co_await catalog_.commit(std::move(request.changes), Durability::power);
    const JobPtr job = add(std::move(record), std::move(held));
    operations_.spawn(run(job, std::move(operation)), job->record().kind);
    co_return job->id();
}

std::vector<Uuid> Jobs::unfinished() const {
    std::vector<Uuid> ids;
    for (const auto& [id, record] : catalog_.jobs())
        if (!finished(record.state)) ids.push_back(id);
    return ids;
}

void Jobs::resume(const Uuid& id, std::vector<ObjectId> locks, Operation recovery) {
    JobRecord record = catalog_.job(id);
    record.state = JobState::running;
    auto held = locks_.take(std::move(locks), record.kind, id);
    const JobPtr job = add(std::move(record), std::move(held));
    operations_.spawn(run(job, std::move(recovery)), "recovery of " + job->record().kind);
}

async::Task<> Jobs::run(JobPtr job, Operation operation) {
    std::exception_ptr failure;
    try {
        co_await operation(job);
    } catch (...) {
        failure = std::current_exception();
    }
    if (!finished(job->record().state)) {
        Error reason(ErrorCode::internal, std::string("it came to no end"));
        if (failure) reason = to_error(failure);
        co_await job->fail(Changes{}, std::move(reason));
    }
    live_.erase(job->id());
}

JobPtr Jobs::find(const Uuid& id) const {
    const auto found = live_.find(id);
    return found == live_.end() ? nullptr : found->second;
}

async::Task<> Jobs::sweep() {
    while (true) {
        Changes changes;
        for (const auto& [id, record] : catalog_.jobs())
            if (finished(record.state) && record.finished + keep_finished_ < now())
                changes.remove(ObjectKind::job, id);
        std::exception_ptr failure;
        if (!changes.empty())
            co_await async::keep_failure(catalog_.commit(std::move(changes), Durability::process), failure);
        if (failure) log().warning("cannot forget finished jobs yet: {}", to_error(failure).what());
        co_await async::sleep_until(
            async::after(std::min<async::Clock::duration>(sweep_interval, keep_finished_)));
    }
}

async::Task<> Jobs::stop(async::Deadline deadline) {
    stopping_ = true;
    co_await housekeeping_.stop();
    std::exception_ptr timeout;
    try {
        co_await operations_.join(deadline);
    } catch (...) {
        timeout = std::current_exception();
    }
    if (timeout) {
        log().notice("{} job(s) are left to recovery", operations_.size());
        co_await operations_.stop();
    }
}

}  // namespace volchain::storage
