// SPDX-License-Identifier: MIT
//
// Wire: owns one connected stream socket and does all reading and writing on it, beneath QMP sessions and
// guest agent connections. What is to be sent is queued and written whole and in order: nobody who gives up
// waiting cuts a message in half. What arrives is handed to the listener as it comes. It knows nothing of
// what the bytes mean.
//
// It works by callbacks, not by coroutines, so that its owner can let go of it at any moment, without
// waiting: after close() or with the listener gone nothing is called any more.
#pragma once

#include <sys/socket.h>

#include <boost/asio/posix/stream_descriptor.hpp>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "async/task.h"
#include "base/unique_fd.h"

namespace volchain::qmp {

/// Called from the event loop, or from within Wire::send().
class WireListener {
  public:
    virtual void on_bytes(std::string_view bytes) = 0;
    /// The socket has the last byte of the message; it was given to it at `when`.
    virtual void on_written(std::uint64_t ticket, async::Clock::time_point when) = 0;
    /// The connection is gone, by itself; the last call.
    virtual void on_lost(const std::string& reason) = 0;

  protected:
    ~WireListener() = default;
};

class Wire : public std::enable_shared_from_this<Wire> {
  public:
    [[nodiscard]] static std::shared_ptr<Wire> make(const async::Executor& executor, UniqueFd connected);

    /// Begins to read.
    void start(std::weak_ptr<WireListener> listener);

    /// Queues a message; `ticket` is the caller's name for it. A descriptor goes along with its first bytes
    /// (SCM_RIGHTS, unix(7)) and is closed here then.
    void send(std::uint64_t ticket, std::string message, UniqueFd passed = {});
    /// Takes a message back; false where part of it is on its way already.
    bool withdraw(std::uint64_t ticket);
    /// Whether everything that was to be sent has been written.
    [[nodiscard]] bool drained() const noexcept { return queue_.empty(); }

    /// Between pause() and resume() nothing is read: what the other side sends stays in the kernel, which
    /// slows it down, and its going away is not noticed.
    void pause() noexcept { paused_ = true; }
    void resume();
    enum class Waiting { nothing, bytes, end };
    /// What has arrived and was not read yet.
    [[nodiscard]] Waiting waiting() noexcept;

    void close() noexcept;
    [[nodiscard]] bool closed() const noexcept { return closed_; }

    /// Who wrote the first bytes that arrived (SCM_CREDENTIALS, unix(7)). Unlike SO_PEERCRED, which tells who
    /// made the listening socket, this is the process that serves it, also where it inherited the socket.
    [[nodiscard]] const std::optional<ucred>& sender() const noexcept { return sender_; }

  private:
    struct Message {
        std::uint64_t ticket;
        std::string bytes;
        UniqueFd passed{};
        std::size_t written = 0;
    };

    Wire(const async::Executor& executor, UniqueFd connected);
    void wait_readable();
    void readable(const boost::system::error_code& failure);
    [[nodiscard]] ssize_t receive();
    void note_sender(const msghdr& message);
    [[nodiscard]] ssize_t transmit(const Message& message);
    void write_queue();
    void wait_writable();
    void lose(const std::string& reason);

    async::asio::posix::stream_descriptor socket_;
    std::weak_ptr<WireListener> listener_;
    std::deque<Message> queue_;
    std::vector<char> buffer_;
    std::optional<ucred> sender_;
    bool paused_ = false;
    bool read_armed_ = false;
    bool write_armed_ = false;
    bool write_failed_ = false;
    bool closed_ = false;
};

}  // namespace volchain::qmp
