// SPDX-License-Identifier: MIT
#include "async/task_group.h"

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/co_spawn.hpp>
#include <cassert>
#include <vector>

#include "base/error.h"
#include "base/log.h"

namespace volchain::async {

TaskGroup::~TaskGroup() {
    assert(running_.empty());
}

void TaskGroup::spawn(Task<> task, std::string what) {
    if (closed_) throw Error(ErrorCode::cancelled, "{} is not started any more: shutting down", what);
    const auto place = running_.emplace(running_.end());
    place->what = std::move(what);
    auto finished = [this, place](const std::exception_ptr& failure) { ended(place, failure); };
    asio::co_spawn(executor_, std::move(task),
                   asio::bind_cancellation_slot(place->cancel.slot(), std::move(finished)));
}

void TaskGroup::ended(std::list<Running>::iterator place, const std::exception_ptr& failure) {
    if (failure) {
        const Error error = to_error(failure);
        if (!cancelled_ || error.code() != ErrorCode::cancelled)
            log().error("{} failed: {}", place->what, error.what());
    }
    running_.erase(place);
    if (running_.empty()) idle_.notify();
}

Task<> TaskGroup::stop() {
    closed_ = true;
    cancelled_ = true;
    // A task may end inside emit() and take its list entry along, so walk over a list of its own.
    std::vector<std::list<Running>::iterator> all;
    for (auto place = running_.begin(); place != running_.end(); ++place) all.push_back(place);
    for (const auto& place : all) place->cancel.emit(asio::cancellation_type::terminal);
    // Whoever stops this group may be stopped itself, now or while it waits; the tasks must have ended all
    // the same.
    const bool throws = co_await asio::this_coro::throw_if_cancelled();
    co_await ignore_cancellation();
    while (!running_.empty()) {
        try {
            co_await idle_.wait(no_deadline, running_.front().what);
        } catch (const Error&) {
        }
    }
    co_await asio::this_coro::throw_if_cancelled(throws);
}

Task<> TaskGroup::join(Deadline deadline) {
    closed_ = true;
    while (!running_.empty()) co_await idle_.wait(deadline, running_.front().what);
}

Task<> TaskGroup::drain() {
    std::exception_ptr stopped;
    co_await keep_failure(join(no_deadline), stopped);
    if (!stopped) co_return;
    const bool throws = co_await asio::this_coro::throw_if_cancelled();
    co_await ignore_cancellation();
    co_await stop();
    co_await asio::this_coro::throw_if_cancelled(throws);
    std::rethrow_exception(stopped);
}

}  // namespace volchain::async
