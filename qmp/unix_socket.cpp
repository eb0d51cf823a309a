// SPDX-License-Identifier: MIT
#include "qmp/unix_socket.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "base/text.h"

namespace volchain::qmp {
namespace {

sockaddr_un address_of(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    // An empty path, or one that begins with a null byte, is an "unnamed" or "abstract" address (unix(7)).
    if (path.empty() || path.find('\0') != std::string::npos || path.size() >= sizeof address.sun_path)
        throw Error(ErrorCode::invalid_argument,
                    "{} cannot be the path of a socket: 1 to {} bytes are allowed", quote(path),
                    sizeof address.sun_path - 1);
    std::memcpy(address.sun_path, path.data(), path.size());
    return address;
}

/// Has to happen before the first bytes arrive: those that are there already have come without their sender.
void ask_for_sender(int socket) {
    const int on = 1;
    if (::setsockopt(socket, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) < 0)
        throw system_error(errno, "cannot ask for the sender of messages");
}

UniqueFd new_socket(int flags) {
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0));
    if (!fd) throw system_error(errno, "cannot make a socket");
    return fd;
}

ConnectError not_connected(const std::string& path, int error_number) {
    using Reason = ConnectError::Reason;
    const auto because = [&](Reason reason, std::string_view why) {
        return ConnectError(reason, fmt::format("cannot connect to socket {}: {}", quote(path), why));
    };
    switch (error_number) {
        case ENOENT:
        case ENOTDIR:
            return because(Reason::nobody_listens,
                           "it does not exist, so the process that would serve it is not running");
        case ECONNREFUSED:
            return because(Reason::nobody_listens,
                           "nobody listens on it, so the process that served it has ended");
        case EAGAIN:
            return because(Reason::held_by_another_client,
                           "its queue is full: another client holds it, and others wait");
        default:
            return because(Reason::refused, std::strerror(error_number));
    }
}

}  // namespace

UniqueFd connect_unix(const std::string& path) {
    const sockaddr_un address = address_of(path);
    UniqueFd fd = new_socket(SOCK_NONBLOCK);
    ask_for_sender(fd.get());
    if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0)
        throw not_connected(path, errno);
    return fd;
}

std::pair<UniqueFd, UniqueFd> connected_pair() {
    std::array<int, 2> ends{};
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) < 0)
        throw system_error(errno, "cannot make a connection");
    std::pair<UniqueFd, UniqueFd> both{UniqueFd(ends[0]), UniqueFd(ends[1])};
    ask_for_sender(both.first.get());
    return both;
}

UniqueFd listen_unix(const std::string& path, mode_t mode) {
    const sockaddr_un address = address_of(path);
    // Non-blocking: at its start QEMU has two threads that look for connections, and the one that finds that the other
    // was faster would wait in accept() for ever, and all of QEMU with it.
    UniqueFd fd = new_socket(SOCK_NONBLOCK);
    // Linux gives the file the mode of the socket, less the umask; so it never has a wider one, not even for
    // a moment.
    if (::fchmod(fd.get(), mode) < 0) throw system_error(errno, "cannot set the mode of a socket");
    if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0)
        throw system_error(errno == EADDRINUSE ? EEXIST : errno, "cannot make socket " + quote(path));
    if (::listen(fd.get(), 1) < 0) {
        const int error_number = errno;
        (void)::unlink(path.c_str());
        throw system_error(error_number, "cannot listen on socket " + quote(path));
    }
    return fd;
}

}  // namespace volchain::qmp
