// SPDX-License-Identifier: MIT
#include "qmp/peer.h"

#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "async/deadline.h"
#include "base/error.h"
#include "base/unique_fd.h"

namespace volchain::qmp {

std::shared_ptr<Peer> Peer::watch(const async::Executor& executor, const ucred& credentials) {
    if (credentials.pid <= 0 || credentials.pid == ::getpid()) return nullptr;
    UniqueFd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, credentials.pid, 0)));
    if (!pidfd) return nullptr;
    std::shared_ptr<Peer> peer(new Peer(executor, credentials, pidfd.get()));
    (void)pidfd.release();
    return peer;
}

bool Peer::ended() noexcept {
    pollfd poll{pidfd_.native_handle(), POLLIN, 0};
    return ::poll(&poll, 1, 0) == 1;
}

async::Task<bool> Peer::wait_ended(async::Deadline deadline) {
    const auto self = shared_from_this();
    bool timed_out = false;
    // In a loop: Asio may say "readable" of what is not.
    while (!ended() && !timed_out) {
        auto readable =
            pidfd_.async_wait(async::asio::posix::stream_descriptor::wait_read, async::asio::use_awaitable);
        try {
            co_await async::with_deadline(std::move(readable), deadline, "the end of a process");
        } catch (const Error& error) {
            if (error.code() != ErrorCode::timeout) throw;
            timed_out = true;
        }
    }
    co_return ended();
}

void Peer::signal(int number) noexcept {
    (void)::syscall(SYS_pidfd_send_signal, pidfd_.native_handle(), number, nullptr, 0);
}

}  // namespace volchain::qmp
