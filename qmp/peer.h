// SPDX-License-Identifier: MIT
//
// Peer: the process at the other end of a session, held by a pidfd from the moment of connecting, so that its
// end can be told from a mere loss of the connection, and its pid cannot come to mean another process.
#pragma once

#include <sys/socket.h>

#include <boost/asio/posix/stream_descriptor.hpp>
#include <memory>
#include <string>

#include "async/task.h"

namespace volchain::qmp {

class Peer : public std::enable_shared_from_this<Peer> {
  public:
    /// None where the process cannot be watched: it has ended already, or it is this very process.
    [[nodiscard]] static std::shared_ptr<Peer> watch(const async::Executor& executor,
                                                     const ucred& credentials);

    [[nodiscard]] pid_t pid() const noexcept { return credentials_.pid; }
    [[nodiscard]] uid_t uid() const noexcept { return credentials_.uid; }
    [[nodiscard]] gid_t gid() const noexcept { return credentials_.gid; }

    /// Whether the process has ended, now.
    [[nodiscard]] bool ended() noexcept;
    /// True as soon as the process has ended, false where it has not by the deadline. How it ended only its
    /// parent can know.
    async::Task<bool> wait_ended(async::Deadline deadline);

    /// pidfd_send_signal(2); nothing happens where the process has ended.
    void signal(int number) noexcept;

  private:
    Peer(const async::Executor& executor, const ucred& credentials, int pidfd)
        : credentials_(credentials), pidfd_(executor, pidfd) {}

    ucred credentials_;
    async::asio::posix::stream_descriptor pidfd_;
};

}  // namespace volchain::qmp
