// SPDX-License-Identifier: MIT
#include "qmp/link.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <optional>

#include "async/file_watch.h"
#include "base/log.h"
#include "base/text.h"

namespace volchain::qmp {
namespace {

/// For finding out, after a loss, whether the process has ended.
constexpr auto time_to_be_seen_dead = std::chrono::milliseconds(500);
/// So often the watched directory is looked up anew: it may have been removed and made again.
constexpr auto watch_anew = std::chrono::seconds(30);

/// A QEMU that finds a connection waiting at its start may go wrong (a greeting too many, or its main loop waits in
/// accept() until the next connection comes): twice each in 12000 starts as measured with 7.2, and in none of 4000 with
/// a connection that came 60 ms after the socket.
constexpr auto settling = std::chrono::milliseconds(100);

/// How long until a socket that has just appeared may be connected to.
async::Clock::duration time_to_settle(const std::string& path) {
    struct stat info {};
    if (::stat(path.c_str(), &info) < 0) return {};
    const auto changed =
        std::chrono::seconds(info.st_ctim.tv_sec) + std::chrono::nanoseconds(info.st_ctim.tv_nsec);
    const auto age = std::chrono::system_clock::now().time_since_epoch() - changed;
    if (age < -settling || age >= settling) return {};  // long ago, or the clock was set
    return std::chrono::duration_cast<async::Clock::duration>(settling - age);
}

/// What the failure of an attempt means.
LinkState state_after(const std::exception_ptr& failure) {
    try {
        std::rethrow_exception(failure);
    } catch (const ConnectError& error) {
        if (error.reason() == ConnectError::Reason::nobody_listens) return LinkState::nobody_listens;
        if (error.reason() == ConnectError::Reason::held_by_another_client)
            return LinkState::held_by_another_client;
    } catch (...) {  // it is no Error that would end the link
    }
    return LinkState::lost;
}

/// Where the task of the caller is being stopped, its wait has ended with an exception like any other.
async::Task<> rethrow_if_stopping(std::exception_ptr failure) {
    const auto state = co_await async::asio::this_coro::cancellation_state;
    if (state.cancelled() != async::asio::cancellation_type::none) std::rethrow_exception(failure);
}

/// The path, or the part of it that has to appear first: the topmost that is in a directory that is there.
std::string to_appear(const std::string& path) {
    std::filesystem::path wanted = std::filesystem::absolute(path);
    std::error_code ignored;
    while (wanted.has_parent_path() && wanted.parent_path() != wanted &&
           !std::filesystem::is_directory(wanted.parent_path(), ignored))
        wanted = wanted.parent_path();
    return wanted.string();
}

}  // namespace

Link::Link(const async::Executor& executor, std::string path, LinkOwner& owner)
    : Link(executor, std::move(path), owner, Pace{}) {}

Link::Link(const async::Executor& executor, std::string path, LinkOwner& owner, Pace pace)
    : path_(std::move(path)), owner_(owner), pace_(pace), tasks_(executor) {}

void Link::start() {
    tasks_.spawn(supervise(), "keeping the connection to " + quote(path_));
    tasks_.spawn(watch(), "watching for " + quote(path_));
}

void Link::poke() {
    poked_ = true;
    wake_.notify();
}

async::Task<> Link::stop() {
    co_await tasks_.stop();
    const std::shared_ptr<Session> session = std::exchange(session_, nullptr);
    if (session) co_await session->close();
}

void Link::note(LinkState state, std::string reason) {
    if (state != state_ || reason != reason_)
        log().debug("link {} is {}: {}", quote(path_), word(state), reason);
    state_ = state;
    reason_ = std::move(reason);
}

async::Task<> Link::supervise() {
    async::Clock::duration delay = pace_.first_pause;
    while (true) {
        bool served = false;
        if (co_await try_connect()) served = co_await serve();
        if (served) delay = pace_.first_pause;
        co_await pause(delay);
        delay = std::min(2 * delay, pace_.last_pause);
        if (std::exchange(poked_, false)) delay = pace_.first_pause;
    }
}

/// Until it is time to try again, or something happened that makes it worthwhile.
async::Task<> Link::pause(async::Clock::duration duration) {
    const async::Deadline end = async::after(duration);
    try {
        while (!poked_) co_await wake_.wait(end, "a reason to connect");
    } catch (const Error& error) {
        if (error.code() != ErrorCode::timeout) throw;
    }
}

async::Task<> Link::watch() {
    while (true) {
        const async::Deadline end = async::after(watch_anew);
        co_await until_file_changes(end);
        if (async::Clock::now() < end && !session_) poke();
    }
}

async::Task<> Link::until_file_changes(async::Deadline deadline) {
    const async::Executor executor = co_await async::asio::this_coro::executor;
    const std::string awaited = to_appear(path_);
    std::optional<async::FileWatch> file;
    try {
        file.emplace(executor, awaited);
    } catch (const Error& error) {
        // As with more links than /proc/sys/fs/inotify/max_user_instances: then it is the intervals that find
        // it.
        log().debug("nobody watches for {}: {}", quote(path_), error.what());
    }
    if (to_appear(path_) != awaited) co_return;  // it appeared before anybody watched
    if (file)
        co_await file->wait(deadline);
    else
        co_await async::sleep_until(deadline);
}

/// The owner takes note; a failure of that must not end the link.
template <typename Call>
void Link::tell_owner(const Call& call) {
    try {
        call();
    } catch (const std::exception& error) {
        log().warning("{}: its owner failed to take note: {}", quote(path_), error.what());
    }
}

async::Task<bool> Link::try_connect() {
    const auto unsettled = time_to_settle(path_);
    if (unsettled > unsettled.zero()) co_await async::sleep_until(async::after(unsettled));
    std::exception_ptr failure;
    try {
        session_ = co_await Session::connect(path_, async::after(pace_.greeting));
    } catch (...) {
        failure = std::current_exception();
    }
    if (!failure) {
        note(LinkState::connected, "");
        co_return true;
    }
    co_await rethrow_if_stopping(failure);
    note(state_after(failure), to_error(failure).what());
    tell_owner([this] { owner_.on_no_connection(state_, reason_); });
    co_return false;
}

/// Whether the owner could take the session; what it throws is of no use to anybody else.
async::Task<bool> Link::welcomed(std::shared_ptr<Session> session) {
    std::exception_ptr failure;
    try {
        co_await owner_.on_connected(session);
    } catch (...) {
        failure = std::current_exception();
    }
    if (!failure) co_return true;
    co_await rethrow_if_stopping(failure);
    if (!session->closed())
        log().warning("cannot work with the QEMU at {}: {}", quote(path_), to_error(failure).what());
    co_return false;
}

/// The life of a session with its owner; false where the owner could make nothing of it.
async::Task<bool> Link::serve() {
    const std::shared_ptr<Session> session = session_;
    const Subscription events = session->subscribe([this](const Event& event) { owner_.on_event(event); });
    const bool welcome = co_await welcomed(session);
    if (welcome)
        co_await session->wait_closed(async::no_deadline);
    else
        co_await session->close();
    LinkLoss loss;
    loss.reason = session->close_reason();
    loss.peer_exited = co_await session->peer_exited(async::after(time_to_be_seen_dead));
    loss.shutdown_reason = session->shutdown_reason();
    session_.reset();
    note(loss.peer_exited ? LinkState::nobody_listens : LinkState::lost, loss.reason);
    tell_owner([this, &loss] { owner_.on_lost(loss); });
    co_return welcome;
}

}  // namespace volchain::qmp
