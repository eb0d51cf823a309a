// SPDX-License-Identifier: MIT
//
// Session: one negotiated QMP connection to a QEMU or a storage daemon. Commands go out with an id and a
// deadline, and any number of coroutines may have one under way; events are handed to subscribers in the
// order they came. A session is connected once: it is of use from connect() until closed(), and a new one is
// made then (Link does that).
//
// It is shared by those who work on that QEMU. When the last of them lets go of it the connection is closed,
// whatever is going on; so it is when it is dropped by one of its own event callbacks.
//
// It does not know what the commands mean: block_graph.h, job.h, schema.h do.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "async/task.h"
#include "base/error.h"
#include "base/json.h"
#include "base/unique_fd.h"
#include "qmp/message.h"
#include "qmp/peer.h"
#include "qmp/unix_socket.h"

namespace volchain::qmp {

class Schema;
class SessionCore;

/// What a command returned, and when.
struct Answer {
    Answer(Json returned, CallTimes call_times) : value(std::move(returned)), times(call_times) {}

    Json value;
    CallTimes times;
};

/// A callback's place among the subscribers; it is not called any more when this is gone.
class [[nodiscard]] Subscription {
  public:
    Subscription() = default;
    Subscription(std::weak_ptr<SessionCore> core, std::uint64_t number)
        : core_(std::move(core)), number_(number) {}
    Subscription(Subscription&& other) noexcept;
    Subscription& operator=(Subscription&& other) noexcept;
    ~Subscription() { reset(); }
    void reset() noexcept;

  private:
    std::weak_ptr<SessionCore> core_;
    std::uint64_t number_ = 0;
};

class Session {
  public:
    using EventCallback = std::function<void(const Event&)>;
    using ClosedCallback = std::function<void()>;

    /// Connects to the monitor socket at `path` and negotiates. Throws ConnectError; a monitor that has not
    /// sent its greeting by the deadline is held by another client.
    static async::Task<std::shared_ptr<Session>> connect(std::string path, async::Deadline deadline);
    /// The same over a connected stream socket; `name` is what messages call it.
    static async::Task<std::shared_ptr<Session>> adopt(UniqueFd connected, std::string name,
                                                       async::Deadline deadline);

    explicit Session(std::shared_ptr<SessionCore> core) : core_(std::move(core)) {}
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;
    ~Session();

    /// Sends a command and waits for its answer. `arguments` is an object. Throws CommandError where QEMU
    /// refuses; Unreachable where the connection is or gets lost, with what is known of the reason; Timeout
    /// at the deadline; Busy where QEMU has left too many commands unanswered.
    ///
    /// A command that was given up (deadline, cancelled task) before it was sent is not sent. One that was
    /// sent may still be carried out; its late answer is dropped.
    async::Task<Json> execute(std::string command, Json arguments, async::Deadline deadline);
    /// The same for a command that is about a descriptor (getfd, add-fd), which goes along with it and is closed here.
    async::Task<Json> execute_with(UniqueFd passed, std::string command, Json arguments,
                                   async::Deadline deadline);
    /// The same, with the times; those of a refusal are in the CommandError.
    async::Task<Answer> ask(std::string command, Json arguments, async::Deadline deadline);

    /// `on_event` is called for each event from now on, `on_closed` once when the session is closed, both
    /// from within the reading of the socket: they take note and return. What they throw is logged and
    /// ignored.
    Subscription subscribe(EventCallback on_event, ClosedCallback on_closed = {});

    [[nodiscard]] bool closed() const noexcept;
    /// Why, empty while it is not closed.
    [[nodiscard]] const std::string& close_reason() const noexcept;
    /// Returns when the session is closed; Timeout at the deadline.
    async::Task<> wait_closed(async::Deadline deadline);
    /// The error of a session that is closed, for whoever waits for something that will not come any more. It
    /// takes a moment to find out whether the process has ended.
    async::Task<Error> loss();
    /// Replaces the question "has the process ended?" in errors about the loss: for an owner who knows
    /// better.
    void explain_loss_with(std::function<async::Task<std::string>()> explain);

    /// The process that serves the monitor, null where it is not known.
    [[nodiscard]] const std::shared_ptr<Peer>& peer() const noexcept;
    /// True as soon as that process has ended, false where it has not by the deadline, or where nobody can
    /// tell.
    async::Task<bool> peer_exited(async::Deadline deadline);
    /// The reason that QEMU's SHUTDOWN event gave ("host-qmp-quit", "guest-shutdown"...), if there was one:
    /// with it, the end of the process was an orderly one. Storage daemons have no such event.
    [[nodiscard]] const std::optional<std::string>& shutdown_reason() const noexcept;

    [[nodiscard]] const Greeting& greeting() const noexcept;
    /// The path of the socket, or the name given to adopt().
    [[nodiscard]] const std::string& name() const noexcept;

    /// What this QEMU can do (query-qmp-schema): asked and read once for the session.
    async::Task<std::shared_ptr<const Schema>> schema(async::Deadline deadline);

    /// Lets a message that is being written come to its end (a second at most), then closes. Commands under
    /// way fail.
    async::Task<> close();

  private:
    std::shared_ptr<SessionCore> core_;
};

}  // namespace volchain::qmp
