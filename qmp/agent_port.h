// SPDX-License-Identifier: MIT
//
// AgentPort: one connection to a guest agent's socket, and the one exchange that is under way on it. It reads
// only while somebody waits for an answer, and then only so much: a guest that talks without end is slowed
// down by its own port. Used by guest_agent.cpp alone.
#pragma once

#include <memory>
#include <string>

#include "async/one_shot.h"
#include "qmp/agent_stream.h"
#include "qmp/message.h"
#include "qmp/wire.h"

namespace volchain::qmp {

class AgentPort final : public WireListener, public std::enable_shared_from_this<AgentPort> {
  public:
    /// How an exchange ended: with an answer, or else with what was wrong.
    struct Outcome {
        Outcome(Reply agent_reply) : reply(std::move(agent_reply)) {}
        explicit Outcome(std::string what_is_wrong) : wrong(std::move(what_is_wrong)) {}
        Reply reply;
        std::string wrong;
        CallTimes times{};
    };

    [[nodiscard]] static std::shared_ptr<AgentPort> make(const async::Executor& executor, UniqueFd connected);

    enum class State {
        fresh,    ///< nothing has been read that nobody waited for
        stray,    ///< something has
        useless,  ///< the connection has ended, or does not take what was written long ago
    };
    [[nodiscard]] State state() noexcept;

    /// Sends the message; the outcome is the next answer. With `sync_id`, it is that answer to
    /// guest-sync-delimited, and everything else is dropped. Timeout at the deadline: the rest of the message
    /// is written nevertheless.
    static async::Task<Outcome> exchange(std::shared_ptr<AgentPort> port, std::uint64_t ticket,
                                         std::string message, std::optional<std::uint64_t> sync_id,
                                         async::Deadline deadline);
    void close();

    void on_bytes(std::string_view bytes) override;
    void on_written(std::uint64_t ticket, async::Clock::time_point when) override;
    void on_lost(const std::string& reason) override;

  private:
    struct Exchange {
        std::uint64_t ticket = 0;
        std::optional<std::uint64_t> sync_id;
        CallTimes times{};
        std::size_t bytes = 0;
        async::OneShot<Outcome> outcome;
    };
    class Current;

    explicit AgentPort(std::shared_ptr<Wire> wire);
    void take(const AgentStream::Line& line);
    void deliver(Outcome outcome);

    std::shared_ptr<Wire> wire_;
    AgentStream stream_;
    Exchange* exchange_ = nullptr;
    bool stray_ = false;
};

}  // namespace volchain::qmp
