// SPDX-License-Identifier: MIT
//
// SessionCore: what is behind a Session. Coroutines that wait for an answer hold it, not the Session, so that
// the Session may go at any time: then they fail. Used by session.cpp alone.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>

#include "async/condition.h"
#include "async/mutex.h"
#include "async/one_shot.h"
#include "qmp/line_splitter.h"
#include "qmp/message.h"
#include "qmp/session.h"
#include "qmp/wire.h"

namespace volchain::qmp {

class SessionCore final : public WireListener, public std::enable_shared_from_this<SessionCore> {
  public:
    SessionCore(const async::Executor& executor, UniqueFd connected, std::string name);

    static async::Task<> negotiate(std::shared_ptr<SessionCore> core, async::Deadline deadline);
    static async::Task<Answer> ask(std::shared_ptr<SessionCore> core, std::string command, Json arguments,
                                   async::Deadline deadline, UniqueFd passed = {});
    static async::Task<> wait_closed(std::shared_ptr<SessionCore> core, async::Deadline deadline);
    static async::Task<Error> loss(std::shared_ptr<SessionCore> core);
    static async::Task<std::shared_ptr<const Schema>> schema(std::shared_ptr<SessionCore> core,
                                                             async::Deadline deadline);
    static async::Task<> close(std::shared_ptr<SessionCore> core);

    Subscription subscribe(Session::EventCallback on_event, Session::ClosedCallback on_closed);
    void unsubscribe(std::uint64_t number) noexcept;
    /// Closes the connection, tells everybody who waits.
    void end(const std::string& reason);
    /// The same, where it is this side that wants no more.
    void end_here(const std::string& reason);

    void on_bytes(std::string_view bytes) override;
    void on_written(std::uint64_t ticket, async::Clock::time_point when) override;
    void on_lost(const std::string& reason) override;

    std::string name;
    Greeting greeting;
    std::shared_ptr<Peer> peer;
    std::optional<std::string> closed;
    bool closed_here = false;  ///< by this side
    std::optional<std::string> shutdown_reason;
    std::function<async::Task<std::string>()> explain;

  private:
    /// How waiting for an answer ended: with it, or (empty) with the loss of the connection.
    using Outcome = std::optional<Reply>;
    struct Request {
        async::OneShot<Outcome> outcome;
        CallTimes times{};
    };
    struct Subscriber {
        Session::EventCallback on_event;
        Session::ClosedCallback on_closed;
    };
    class Registration;

    static async::Task<> await_greeting(std::shared_ptr<SessionCore> core, async::Deadline deadline);
    [[nodiscard]] static async::Task<std::string> why_lost(std::shared_ptr<SessionCore> core);
    [[nodiscard]] std::string request_line(const std::string& command, Json arguments,
                                           std::uint64_t id) const;
    void forget(std::uint64_t id) noexcept;
    void take(const Greeting& received);
    void take(const Event& event);
    void take(Reply& reply);
    template <typename Call>
    void tell_subscribers(const Call& call);

    std::shared_ptr<Wire> wire_;
    LineSplitter lines_;
    async::OneShot<bool> greeted_;  ///< false: the connection ended before
    bool not_qmp_ = false;          ///< it ended because what came was not QMP
    async::Clock::time_point read_at_;
    /// Commands that QEMU has not answered. Null: nobody waits for the answer any more.
    std::map<std::uint64_t, Request*> requests_;
    std::uint64_t next_request_ = 1;
    std::map<std::uint64_t, std::shared_ptr<Subscriber>> subscribers_;
    std::uint64_t next_subscriber_ = 1;
    async::Condition closed_changed_;
    async::Condition written_;
    async::Mutex schema_turn_;
    std::shared_ptr<const Schema> schema_;
};

}  // namespace volchain::qmp
