// SPDX-License-Identifier: MIT
//
// volchainctl job: operations under way, and what became of them.
#include <algorithm>

#include "base/timestamp.h"
#include "client/job_wait.h"
#include "client/properties.h"
#include "client/show.h"
#include "client/units.h"
#include "client/verb.h"

namespace volchain::client {
namespace {

Cell progress(const Object& job) {
    const std::uint64_t total = job.number("TotalBytes");
    if (total == 0) return {};
    return Cell::percent(100 * static_cast<double>(std::min(job.number("DoneBytes"), total)) /
                         static_cast<double>(total));
}

Cell elapsed(const Object& job) {
    const std::uint64_t finished = job.number("FinishedUsec");
    const std::uint64_t until = finished == 0 ? to_usec(now()) : finished;
    return Cell::duration(until - std::min(until, job.number("StartedUsec")));
}

async::Task<> list_jobs(Session& session, Arguments arguments) {
    const Objects objects = co_await session.objects();
    std::vector<const Object*> jobs = objects.of_kind("job");
    if (arguments.flag("running"))
        std::erase_if(jobs, [](const Object* job) { return job->number("FinishedUsec") != 0; });
    std::stable_sort(jobs.begin(), jobs.end(), [](const Object* a, const Object* b) {
        return a->number("StartedUsec") < b->number("StartedUsec");
    });
    const std::vector<ListColumn> columns{"Id",          "Kind",
                                          "Subject",     "State",
                                          "Step",        {"Progress", progress},
                                          "StartedUsec", {"ElapsedUsec", elapsed}};
    session.output().print(list_of("job", objects, jobs, columns));
}

async::Task<> cancel_job(Session& session, Arguments arguments) {
    const bus::ObjectPath job = co_await session.find("job", arguments.at(0));
    co_await session.call(job, "Cancel");
}

async::Task<> pause_job(Session& session, Arguments arguments) {
    const bus::ObjectPath job = co_await session.find("job", arguments.at(0));
    co_await session.call(job, "Pause");
}

async::Task<> resume_job(Session& session, Arguments arguments) {
    const bus::ObjectPath job = co_await session.find("job", arguments.at(0));
    co_await session.call(job, "Resume");
}

async::Task<> set_job_speed(Session& session, Arguments arguments) {
    const std::uint64_t speed = parse_size(arguments.at(1));
    const bus::ObjectPath job = co_await session.find("job", arguments.at(0));
    co_await session.call(job, "SetSpeed", speed);
}

async::Task<> wait_job(Session& session, Arguments arguments) {
    const auto jobs = co_await session.find_all("job", arguments.words_from(0));
    for (const bus::ObjectPath& job : jobs) co_await wait_for_job(session, job);
}

}  // namespace

std::vector<Verb> job_verbs() {
    return {
        {"job",
         "list",
         "",
         "list the jobs, those that have ended lately, too",
         list_jobs,
         {{"running", "", "only those that have not ended"}}},
        {"job", "show", "JOB", "show all there is to say of a job", show_object},
        {"job", "cancel", "JOB", "ask a job to stop and undo what it did", cancel_job},
        {"job", "pause", "JOB", "let what a job copies stand still", pause_job},
        {"job", "resume", "JOB", "let a paused job go on", resume_job},
        {"job", "speed", "JOB SIZE", "limit what a job copies a second; 0 is without limit", set_job_speed},
        {"job", "wait", "JOB...", "wait for the end of jobs, and fail where one failed", wait_job},
    };
}

}  // namespace volchain::client
