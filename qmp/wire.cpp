// SPDX-License-Identifier: MIT
#include "qmp/wire.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace volchain::qmp {
namespace {

constexpr std::size_t read_size = 65536;

}  // namespace

std::shared_ptr<Wire> Wire::make(const async::Executor& executor, UniqueFd connected) {
    return std::shared_ptr<Wire>(new Wire(executor, std::move(connected)));
}

Wire::Wire(const async::Executor& executor, UniqueFd connected) : socket_(executor), buffer_(read_size) {
    const int on = 1;
    if (::setsockopt(connected.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof on) < 0)
        throw system_error(errno, "cannot ask for the sender of messages");
    socket_.assign(connected.get());
    (void)connected.release();
}

void Wire::start(std::weak_ptr<WireListener> listener) {
    listener_ = std::move(listener);
    wait_readable();
}

void Wire::resume() {
    paused_ = false;
    wait_readable();
}

void Wire::close() noexcept {
    closed_ = true;
    queue_.clear();
    boost::system::error_code ignored;
    socket_.close(ignored);
}

Wire::Waiting Wire::waiting() noexcept {
    if (closed_) return Waiting::end;
    char byte = 0;
    const ssize_t got = ::recv(socket_.native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    if (got > 0) return Waiting::bytes;
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return Waiting::nothing;
    return Waiting::end;
}

// --- reading -----------------------------------------------------------------------------------------------

void Wire::wait_readable() {
    if (closed_ || paused_ || read_armed_) return;
    read_armed_ = true;
    socket_.async_wait(async::asio::posix::stream_descriptor::wait_read,
                       [self = shared_from_this()](const boost::system::error_code& failure) {
                           self->read_armed_ = false;
                           self->readable(failure);
                       });
}

void Wire::readable(const boost::system::error_code& failure) {
    if (closed_ || paused_) return;
    if (failure) return lose(failure.message());
    const ssize_t got = receive();
    if (got == 0) return lose("the other side closed the connection");
    if (got > 0) {
        if (const auto listener = listener_.lock())
            listener->on_bytes(std::string_view(buffer_.data(), static_cast<std::size_t>(got)));
    } else if (errno != EAGAIN && errno != EINTR) {
        return lose(std::strerror(errno));
    }
    wait_readable();
}

ssize_t Wire::receive() {
    // Room for the sender only: descriptors that somebody may pass along find none, and the kernel drops
    // them.
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(ucred))> control{};
    iovec bytes{buffer_.data(), buffer_.size()};
    msghdr message{};
    message.msg_iov = &bytes;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    const ssize_t got = ::recvmsg(socket_.native_handle(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got > 0 && !sender_) note_sender(message);
    return got;
}

void Wire::note_sender(const msghdr& message) {
    const cmsghdr* const header = CMSG_FIRSTHDR(&message);
    if (header == nullptr || header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_CREDENTIALS) return;
    ucred sender{};
    std::memcpy(&sender, CMSG_DATA(header), sizeof sender);
    if (sender.pid > 0) sender_ = sender;  // 0: a process outside of our pid namespace
}

// --- writing -----------------------------------------------------------------------------------------------

void Wire::send(std::uint64_t ticket, std::string message, UniqueFd passed) {
    if (closed_ || write_failed_) return;  // on_lost() tells, or has told
    queue_.push_back(Message{ticket, std::move(message), std::move(passed)});
    write_queue();
}

bool Wire::withdraw(std::uint64_t ticket) {
    const auto found =
        std::find_if(queue_.begin(), queue_.end(), [&](const Message& m) { return m.ticket == ticket; });
    if (found == queue_.end() || found->written > 0) return false;
    queue_.erase(found);
    return true;
}

ssize_t Wire::transmit(const Message& message) {
    // sendmsg(2) only reads what it is given.
    iovec bytes{const_cast<char*>(message.bytes.data()) + message.written,
                message.bytes.size() - message.written};
    msghdr header{};
    header.msg_iov = &bytes;
    header.msg_iovlen = 1;
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
    if (message.passed) {
        header.msg_control = control.data();
        header.msg_controllen = control.size();
        cmsghdr* const rights = CMSG_FIRSTHDR(&header);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(sizeof(int));
        const int fd = message.passed.get();
        std::memcpy(CMSG_DATA(rights), &fd, sizeof fd);
    }
    return ::sendmsg(socket_.native_handle(), &header, MSG_NOSIGNAL | MSG_DONTWAIT);
}

void Wire::write_queue() {
    while (!closed_ && !write_armed_ && !queue_.empty()) {
        Message& first = queue_.front();
        // Before the call: the other side may run, and we not, before it returns.
        const auto when = async::Clock::now();
        const ssize_t put = transmit(first);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0 && errno == EAGAIN) return wait_writable();
        if (put < 0) {
            write_failed_ = true;
            queue_.clear();
            // The other side is gone, but its last words may still be unread: reading them ends with
            // on_lost().
            if (paused_ || errno != EPIPE) lose(std::strerror(errno));
            return;
        }
        first.written += static_cast<std::size_t>(put);
        first.passed = UniqueFd();
        if (first.written < first.bytes.size()) continue;
        const std::uint64_t ticket = first.ticket;
        queue_.pop_front();
        if (const auto listener = listener_.lock()) listener->on_written(ticket, when);
    }
}

void Wire::wait_writable() {
    write_armed_ = true;
    socket_.async_wait(async::asio::posix::stream_descriptor::wait_write,
                       [self = shared_from_this()](const boost::system::error_code& failure) {
                           self->write_armed_ = false;
                           if (!failure) self->write_queue();
                       });
}

void Wire::lose(const std::string& reason) {
    if (closed_) return;
    close();
    if (const auto listener = listener_.lock()) listener->on_lost(reason);
}

}  // namespace volchain::qmp
