// SPDX-License-Identifier: MIT
#include "systemd/bus_pump.h"

#include <fcntl.h>
#include <poll.h>

#include <boost/asio/post.hpp>
#include <cerrno>
#include <chrono>
#include <utility>

#include "base/error.h"
#include "base/log.h"

namespace volchain::bus {
namespace {

namespace asio = boost::asio;
using asio::posix::stream_descriptor;

/// What is handled in one turn of the event loop: so many messages, and no further one after this time. (A list of
/// thousands of objects takes a tenth of a second to make. Others, a guest that is to be thawed, wait for one at most.)
constexpr int messages_a_turn = 16;
constexpr std::chrono::milliseconds time_of_a_turn{3};

int duplicate_fd(sd_bus* bus) {
    const int fd = sd_bus_get_fd(bus);
    const int copy = fd < 0 ? -1 : ::fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0) throw system_error(fd < 0 ? -fd : errno, "cannot watch the message bus");
    return copy;
}

}  // namespace

void throw_bus_failure(int result, std::string_view activity) {
    const Error error = system_error(-result, activity);
    if (result == -ENOTCONN || result == -ECONNRESET || result == -EPIPE || result == -ESHUTDOWN)
        throw Error(ErrorCode::unreachable, error.what());
    throw error;
}

Pump::Pump(async::Executor executor, OpenBus bus)
    : executor_(std::move(executor)),
      bus_(std::move(bus)),
      descriptor_(executor_, duplicate_fd(bus_.get())),
      timer_(executor_) {}

void Pump::kick() {
    if (turn_posted_ || closed_) return;
    turn_posted_ = true;
    asio::post(executor_, [weak = weak_from_this()] {
        const auto pump = weak.lock();
        if (!pump) return;
        pump->turn_posted_ = false;
        pump->turn();
    });
}

/// What is handled may destroy the connection; whoever calls this holds the pump.
void Pump::turn() {
    const async::Deadline end = async::after(time_of_a_turn);
    for (int handled = 0; handled < messages_a_turn && (handled == 0 || async::Clock::now() < end);
         ++handled) {
        if (closed_) return;
        const int result = sd_bus_process(bus(), nullptr);
        if (result < 0) return lost(result);
        if (result == 0) return arm();
    }
    kick();  // there may be more, after others had their turn
}

void Pump::arm() {
    if (closed_) return;
    const int events = sd_bus_get_events(bus());
    if (events < 0) return lost(events);
    std::uint64_t timeout = no_bus_timeout;
    if (const int result = sd_bus_get_timeout(bus(), &timeout); result < 0) return lost(result);
    if (!has_output()) drained_.notify();

    if ((events & POLLIN) != 0) wait_for(stream_descriptor::wait_read, waits_for_input_);
    if ((events & POLLOUT) != 0) wait_for(stream_descriptor::wait_write, waits_for_output_);
    wait_until(timeout);
}

void Pump::wait_for(stream_descriptor::wait_type direction, bool& waiting) {
    if (waiting) return;
    waiting = true;
    descriptor_.async_wait(direction,
                           [weak = weak_from_this(), &waiting](const boost::system::error_code& failure) {
                               const auto pump = weak.lock();
                               if (!pump) return;
                               waiting = false;
                               if (!failure) pump->turn();
                           });
}

/// sd-bus and steady_clock both count CLOCK_MONOTONIC.
void Pump::wait_until(std::uint64_t absolute_usec) {
    if (absolute_usec == no_bus_timeout) {
        timer_.cancel();
        return;
    }
    timer_.expires_at(async::Deadline(std::chrono::microseconds(absolute_usec)));
    timer_.async_wait([weak = weak_from_this()](const boost::system::error_code& failure) {
        if (failure) return;
        if (const auto pump = weak.lock()) pump->turn();
    });
}

bool Pump::has_output() const noexcept {
    std::uint64_t queued = 0;
    return !closed_ && sd_bus_get_n_queued_write(bus(), &queued) >= 0 && queued > 0;
}

void Pump::close(const std::string& reason) {
    if (std::exchange(closed_, true)) return;
    const auto failure = std::make_exception_ptr(Error(ErrorCode::unreachable, reason));
    for (PendingCall* call : pending_) (void)call->reply.fail(failure);
    drained_.notify();
    boost::system::error_code ignored;
    descriptor_.close(ignored);
    timer_.cancel();
    sd_bus_close(bus());
}

void Pump::lost(int result) {
    if (closed_) return;
    lost_reason_ = system_error(-result, "the connection to the message bus was lost").what();
    close(lost_reason_);
    // From the event loop, not from here: the owner may destroy the connection.
    asio::post(executor_, [weak = weak_from_this()] {
        if (const auto pump = weak.lock()) pump->tell_owner();
    });
}

void Pump::tell_owner() {
    const auto handler = std::exchange(on_lost_, nullptr);
    if (handler)
        handler(lost_reason_);
    else
        log().error("{}", lost_reason_);
}

}  // namespace volchain::bus
