// SPDX-License-Identifier: MIT
#include "client/stop_sign.h"

#include <sys/eventfd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdint>

#include "base/error.h"

namespace volchain::client {
namespace {

constexpr std::array<int, 3> ending_signals{SIGINT, SIGTERM, SIGHUP};

bool is_ignored(int number) {
    struct sigaction present {};
    return ::sigaction(number, nullptr, &present) == 0 && present.sa_handler == SIG_IGN;
}

}  // namespace

StopSign::StopSign(const async::Executor& executor)
    : event_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)), signals_(executor) {
    if (!event_) throw system_error(errno, "cannot make an event");
    for (const int number : ending_signals)
        if (!is_ignored(number)) signals_.add(number);
    // A handler that is called when this has gone is told so.
    signals_.async_wait([this](const boost::system::error_code& failure, int number) {
        if (!failure) ask(number);
    });
}

void StopSign::throw_if_asked() const {
    if (asked()) throw Interrupted{signal_};
}

async::Task<> StopSign::wait() {
    while (!asked()) co_await asked_.wait(async::no_deadline, "a signal");
}

void StopSign::close() {
    signals_.cancel();
}

void StopSign::ask(int signal) {
    signal_ = signal;
    const std::uint64_t one = 1;
    (void)!::write(event_.get(), &one, sizeof one);
    asked_.notify();
}

}  // namespace volchain::client
