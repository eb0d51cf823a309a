// SPDX-License-Identifier: MIT
#include "daemon/handed_listener.h"

#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace volchain::daemon {
namespace {

constexpr std::size_t max_text = 4096;
/// Between an error's name and its text.
constexpr char separator = '\n';

/// One message, with a descriptor or without.
class Parcel {
  public:
    Parcel() {
        part_.iov_base = text_.data();
        part_.iov_len = text_.size();
        header_.msg_iov = &part_;
        header_.msg_iovlen = 1;
    }

    void send(int connection, const std::string& text, int descriptor) {
        part_.iov_len = text.copy(text_.data(), text_.size());
        if (descriptor >= 0) {
            make_room();
            cmsghdr* const control = CMSG_FIRSTHDR(&header_);
            control->cmsg_level = SOL_SOCKET;
            control->cmsg_type = SCM_RIGHTS;
            control->cmsg_len = CMSG_LEN(sizeof descriptor);
            std::memcpy(CMSG_DATA(control), &descriptor, sizeof descriptor);
        }
        if (::sendmsg(connection, &header_, MSG_NOSIGNAL) < 0)
            throw system_error(errno, "cannot hand over a socket");
    }

    /// The text; empty at the end of the connection, or where there is nothing.
    std::string receive(int connection, UniqueFd& descriptor) {
        make_room();
        const ssize_t got = ::recvmsg(connection, &header_, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
        if (got < 0 && errno != EAGAIN) throw system_error(errno, "cannot take over a socket");
        const cmsghdr* const control = got < 0 ? nullptr : CMSG_FIRSTHDR(&header_);
        if (control != nullptr && control->cmsg_level == SOL_SOCKET && control->cmsg_type == SCM_RIGHTS) {
            int received = -1;
            std::memcpy(&received, CMSG_DATA(control), sizeof received);
            descriptor.reset(received);
        }
        return {text_.data(), static_cast<std::size_t>(got < 0 ? 0 : got)};
    }

  private:
    void make_room() {
        header_.msg_control = control_.data();
        header_.msg_controllen = control_.size();
    }

    std::array<char, max_text> text_{};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control_{};
    iovec part_{};
    msghdr header_{};
};

}  // namespace

std::pair<UniqueFd, UniqueFd> listener_connection() {
    std::array<int, 2> ends{};
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) < 0)
        throw system_error(errno, "cannot make a connection");
    return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

void hand_over_listener(int connection, const std::string& address) {
    Parcel parcel;
    try {
        storage::TcpAddress wanted = storage::TcpAddress::parse(address);
        const UniqueFd socket = storage::listen_tcp(wanted);
        parcel.send(connection, wanted.str(), socket.get());
    } catch (const Error& error) {
        parcel.send(connection, std::string(name(error.code())) + separator + error.what(), -1);
    }
}

UniqueFd take_listener(int connection, const storage::TcpAddress& address) {
    UniqueFd socket;
    const std::string text = Parcel().receive(connection, socket);
    if (socket) return socket;
    const std::size_t end = text.find(separator);
    if (end == std::string::npos)
        throw Error(ErrorCode::internal,
                    "cannot listen on {}: volchain-listener said nothing; see the journal", address.str());
    throw Error(error_code(text.substr(0, end)), text.substr(end + 1));
}

}  // namespace volchain::daemon
