// SPDX-License-Identifier: MIT
#include "client/relay.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <vector>

#include "base/error.h"

namespace volchain::client {
namespace {

/// Waits until the descriptor takes, or has, something; it may be non-blocking, as whoever made it liked.
void wait_for(int fd, short what) {
    pollfd one{fd, what, 0};
    while (::poll(&one, 1, -1) < 0)
        if (errno != EINTR) throw system_error(errno, "cannot wait for a connection");
}

bool again(int error_number) {
    return error_number == EINTR || error_number == EAGAIN;
}

void write_all(int fd, const char* data, std::size_t size) {
    while (size > 0) {
        const ssize_t put = ::write(fd, data, size);
        if (put < 0 && !again(errno)) throw system_error(errno, "cannot pass on what came");
        if (put < 0) {
            wait_for(fd, POLLOUT);
            continue;
        }
        data += put;
        size -= static_cast<std::size_t>(put);
    }
}

/// What is there now; false at the end.
bool pass_on(int from, int to, std::vector<char>& buffer) {
    const ssize_t got = ::read(from, buffer.data(), buffer.size());
    if (got < 0 && again(errno)) return true;
    if (got < 0 && errno == ECONNRESET) return false;
    if (got < 0) throw system_error(errno, "cannot read");
    write_all(to, buffer.data(), static_cast<std::size_t>(got));
    return got > 0;
}

}  // namespace

void relay(int input, int output, int socket) {
    std::vector<char> buffer(std::size_t{256} << 10);
    std::array<pollfd, 2> ends{pollfd{socket, POLLIN, 0}, pollfd{input, POLLIN, 0}};
    while (true) {
        if (::poll(ends.data(), ends.size(), -1) < 0) {
            if (errno == EINTR) continue;
            throw system_error(errno, "cannot wait for a connection");
        }
        if (ends[0].revents != 0 && !pass_on(socket, output, buffer)) return;
        if (ends[1].revents == 0 || pass_on(input, socket, buffer)) continue;
        // Nothing more comes from here; what is under way from there does.
        (void)::shutdown(socket, SHUT_WR);
        ends[1].fd = -1;
    }
}

}  // namespace volchain::client
