// SPDX-License-Identifier: MIT
#include "client/job_wait.h"

#include <boost/asio/signal_set.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <csignal>
#include <map>
#include <tuple>
#include <utility>

#include "async/deadline.h"
#include "client/progress.h"
#include "client/properties.h"
#include "systemd/bus_error.h"

namespace volchain::client {
namespace {

using TextPair = std::tuple<std::string, std::string>;
/// State, error (name and message), result: as Job.Wait answers.
using JobEnd = std::tuple<std::string, TextPair, bus::Dict>;
/// Interface, values, names of properties without a value.
using Changed = std::tuple<std::string, bus::Dict, std::vector<std::string>>;

/// Whether whoever started us wants ^C to pass us by, as shells do with what a script runs in the background.
bool interrupt_ignored() {
    struct sigaction present {};
    return ::sigaction(SIGINT, nullptr, &present) == 0 && present.sa_handler == SIG_IGN;
}

async::Task<> interrupted(async::Executor executor) {
    if (interrupt_ignored()) co_await async::sleep_until(async::no_deadline);
    async::asio::signal_set signals(executor, SIGINT);
    (void)co_await signals.async_wait(async::asio::use_awaitable);
}

JobStatus status_of(const Object& job) {
    return {job.text("Kind"), job.text("Step"), job.number("DoneBytes"), job.number("TotalBytes")};
}

/// Shows how one job goes, for as long as it lives.
class Watch {
  public:
    Watch(Session& session, bus::ObjectPath job) : session_(session), progress_(session.output().quiet()) {
        job_.path = std::move(job);
        const bus::Proxy properties(session_.bus(), service_name, job_.path.str(),
                                    "org.freedesktop.DBus.Properties");
        subscription_ = properties.subscribe("PropertiesChanged", [this](const bus::Message& message) {
            const Changed change = bus::read_body<Changed>(message);
            for (const auto& [name, value] : std::get<1>(change)) changes_.insert_or_assign(name, value);
            if (looked_) show();
        });
    }

    async::Task<JobEnd> until_end() {
        Object now = co_await session_.object(job_.path);
        job_ = std::move(now);
        looked_ = true;
        if (job_.number("FinishedUsec") == 0) show();
        auto end = session_.proxy(job_.path).call<JobEnd>("Wait", async::no_deadline);
        co_return co_await std::move(end);
    }

    void end() { progress_.clear(); }

  private:
    /// What changed is kept apart from the first look: a change that was told after the answer to that may
    /// have been handled before it, and one that was told before is told again or the last one.
    void show() {
        for (const auto& [name, value] : changes_) job_.properties.insert_or_assign(name, value);
        progress_.show(status_of(job_));
    }

    Session& session_;
    Object job_;
    bool looked_ = false;
    bus::Dict changes_;
    Progress progress_;
    bus::Subscription subscription_;
};

void say_how_to_go_on(Session& session, const bus::ObjectPath& job) {
    const std::string id = short_id(id_of(job));
    session.output().note(
        fmt::format("Job {0} goes on. See it with 'volchainctl job show {0}', stop it with "
                    "'volchainctl job cancel {0}'.",
                    id));
}

/// The end of the job; none where `limit` came first.
async::Task<std::optional<JobEnd>> watched_end(Session& session, bus::ObjectPath job, async::Task<> limit) {
    Watch watch(session, job);
    std::exception_ptr failure;
    std::optional<JobEnd> end;
    auto either = async::first_of(watch.until_end(), std::move(limit));
    co_await async::keep_result(std::move(either), end, failure);
    watch.end();
    if (failure) {
        const Error error = to_error(failure);
        if (error.code() != ErrorCode::unreachable) std::rethrow_exception(failure);
        throw Error(error.code(),
                    "volchaind ended while job {0} was under way ({1}). When it starts again it carries the "
                    "job on or "
                    "undoes it: see 'volchainctl job show {0}'",
                    short_id(id_of(job)), error.what());
    }
    co_return end;
}

async::Task<> never() {
    co_await async::sleep_until(async::no_deadline);
}

bus::Dict result_in(const JobEnd& end) {
    const auto& [state, error, result] = end;
    if (state == "succeeded") return result;
    std::string_view name = std::get<0>(error);
    if (name.starts_with(bus::error_prefix)) name.remove_prefix(bus::error_prefix.size());
    throw Error(error_code(name), std::get<1>(error));
}

/// What the entry of a result is called: of objects, their names.
async::Task<Cell> result_cell(Session& session, std::string name, bus::Variant value) {
    auto paths = value.get<std::vector<bus::ObjectPath>>().value_or(std::vector<bus::ObjectPath>());
    if (const auto path = value.get<bus::ObjectPath>()) paths.push_back(*path);
    std::map<bus::ObjectPath, std::string> names;
    for (const bus::ObjectPath& path : paths) {
        if (kind_of(path).empty()) continue;
        const Object object = co_await session.object(path);
        names[path] = object.name();
    }
    const NameOf name_of = [&names](const bus::ObjectPath& path) { return names[path]; };
    co_return cell_of(name, value, name_of);
}

async::Task<> print_result(Session& session, bus::Dict result, std::string made) {
    if (session.output().quiet() && !session.output().json()) {
        const auto entry = result.find(made);
        if (entry != result.end())
            if (const auto path = entry->second.get<bus::ObjectPath>())
                session.output().print_text(id_of(*path) + "\n");
        co_return;
    }
    Sheet sheet;
    for (const auto& [name, value] : result) {
        Cell cell = co_await result_cell(session, name, value);
        sheet.add(name, std::move(cell));
    }
    session.output().print(sheet);
}

}  // namespace

async::Task<bus::Dict> result_of_job(Session& session, bus::ObjectPath job) {
    const auto end = co_await watched_end(session, job, interrupted(session.executor()));
    if (!end) {
        say_how_to_go_on(session, job);
        throw Interrupted{SIGINT};
    }
    co_return result_in(*end);
}

async::Task<bus::Dict> result_of_part(Session& session, bus::ObjectPath job, StopSign* stop) {
    auto limit = stop == nullptr ? never() : stop->wait();
    const auto end = co_await watched_end(session, job, std::move(limit));
    if (!end) stop->throw_if_asked();
    co_return result_in(*end);
}

async::Task<> wait_for_job(Session& session, bus::ObjectPath job, std::string made) {
    bus::Dict result = co_await result_of_job(session, job);
    co_await print_result(session, std::move(result), made);
}

async::Task<> finish_job(Session& session, bus::ObjectPath job, std::string made) {
    if (session.settings().wait) {
        co_await wait_for_job(session, job, made);
        co_return;
    }
    Sheet sheet;
    sheet.add("Job", Cell::object("job", id_of(job), ""));
    if (session.output().json())
        session.output().print(sheet);
    else
        session.output().print_text(id_of(job) + "\n");
}

async::Task<> print_made(Session& session, bus::ObjectPath object) {
    bus::Dict result;
    const std::string kind = kind_of(object);
    result.emplace(kind, object);
    co_await print_result(session, std::move(result), kind);
}

}  // namespace volchain::client
