// SPDX-License-Identifier: MIT
//
// Link: keeps a session with the QEMU behind one socket path, for as long as there is to be one: connects,
// hands each new session to its owner, tells of its loss, and connects again when a QEMU is there again. It
// finds a QEMU that starts by the socket that appears; where that cannot be seen it tries at growing
// intervals.
//
// It belongs to whoever looks after the VM (its LinkOwner), who starts it and awaits stop() before letting go
// of it.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <string>

#include "async/condition.h"
#include "async/task_group.h"
#include "base/enum_names.h"
#include "qmp/session.h"

namespace volchain::qmp {

enum class LinkState {
    nobody_listens,          ///< QEMU does not run
    connected,               ///< the owner has the session, or is being given it
    held_by_another_client,  ///< QEMU runs, and somebody else has this monitor
    lost,                    ///< anything else: the connection broke, is refused, does not speak QMP
};
constexpr auto enum_names(LinkState) {
    return std::to_array<EnumName<LinkState>>({{LinkState::nobody_listens, "nobody-listens"},
                                               {LinkState::connected, "connected"},
                                               {LinkState::held_by_another_client, "held-by-another-client"},
                                               {LinkState::lost, "lost"}});
}

/// What is known of the end of a session.
struct LinkLoss {
    std::string reason;
    bool peer_exited = false;  ///< the process has ended, else only the connection
    /// The reason in QEMU's SHUTDOWN event: it ended in order. With peer_exited and without this, it crashed.
    std::optional<std::string> shutdown_reason;
};

/// What the owner is told: of each failed attempt, and of each session in the order connected, events, lost.
class LinkOwner {
  public:
    /// A fresh session. Events come from before the call on. What it throws is logged, the session is closed,
    /// and connecting begins again after a pause. A loss meanwhile shows in the session; it is told of
    /// afterwards.
    virtual async::Task<> on_connected(std::shared_ptr<Session> session) = 0;
    /// From the reader of the session: take note and return.
    virtual void on_event(const Event& event) = 0;
    virtual void on_lost(const LinkLoss& loss) = 0;
    /// An attempt to connect has failed; the next one comes by itself.
    virtual void on_no_connection(LinkState state, const std::string& reason) = 0;

  protected:
    ~LinkOwner() = default;
};

class Link {
  public:
    struct Pace {
        async::Clock::duration first_pause = std::chrono::milliseconds(50);
        async::Clock::duration last_pause = std::chrono::seconds(30);
        async::Clock::duration greeting = std::chrono::seconds(2);
    };

    Link(const async::Executor& executor, std::string path, LinkOwner& owner);
    Link(const async::Executor& executor, std::string path, LinkOwner& owner, Pace pace);
    Link(const Link&) = delete;
    Link& operator=(const Link&) = delete;

    void start();
    /// Tries to connect now, where it would wait otherwise.
    void poke();
    /// Closes the session, without a word of on_lost(), and returns when nothing runs any more. For good.
    async::Task<> stop();

    [[nodiscard]] LinkState state() const noexcept { return state_; }
    /// Why there is no session: the error of the last attempt, or the loss.
    [[nodiscard]] const std::string& reason() const noexcept { return reason_; }
    /// Null unless connected. It may be closed already.
    [[nodiscard]] const std::shared_ptr<Session>& session() const noexcept { return session_; }
    [[nodiscard]] const std::string& path() const noexcept { return path_; }

  private:
    [[nodiscard]] async::Task<> supervise();
    [[nodiscard]] async::Task<> watch();
    [[nodiscard]] async::Task<> until_file_changes(async::Deadline deadline);
    [[nodiscard]] async::Task<bool> try_connect();
    [[nodiscard]] async::Task<bool> welcomed(std::shared_ptr<Session> session);
    [[nodiscard]] async::Task<bool> serve();
    [[nodiscard]] async::Task<> pause(async::Clock::duration duration);
    void note(LinkState state, std::string reason);
    template <typename Call>
    void tell_owner(const Call& call);

    std::string path_;
    LinkOwner& owner_;
    Pace pace_;
    LinkState state_ = LinkState::nobody_listens;
    std::string reason_;
    std::shared_ptr<Session> session_;
    bool poked_ = false;
    async::Condition wake_;
    async::TaskGroup tasks_;
};

}  // namespace volchain::qmp
