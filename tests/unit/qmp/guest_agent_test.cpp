// SPDX-License-Identifier: MIT
#include "qmp/guest_agent.h"

#include <unistd.h>

#include <fstream>

#include "support.h"

namespace volchain::qmp::guest_agent_test {
namespace {

constexpr auto short_sync = std::chrono::milliseconds(100);

/// Reads one guest-sync-delimited and returns its id.
Task<std::uint64_t> hear_sync(FakePeer& agent) {
    auto line = co_await agent.hear();
    if (!line) throw Error(ErrorCode::internal, std::string("the host has gone"));
    EXPECT_EQ(line->front(), '\xff') << "what the agent had read of an earlier command is not dropped";
    const Json command = json(line->substr(1));
    EXPECT_EQ(command.at("execute"), "guest-sync-delimited");
    co_return command.at("arguments").at("id").get<std::uint64_t>();
}

std::string sync_answer(std::uint64_t id) {
    return fmt::format("\xff{{\"return\": {}}}\n", id);
}

Task<> answer_sync(FakePeer& agent) {
    const std::uint64_t id = co_await hear_sync(agent);
    co_await agent.say(sync_answer(id));
}

Task<> answer(FakePeer& agent, std::string command, std::string bytes) {
    const Json heard = co_await agent.hear_json();
    EXPECT_EQ(heard.at("execute"), command);
    EXPECT_FALSE(heard.contains("id")) << "old agents refuse it";
    co_await agent.say(std::move(bytes));
}

/// An agent, its socket, and the host's end.
struct Setup {
    Setup(const async::Executor& executor, async::Clock::duration sync_limit = std::chrono::seconds(10))
        : server(executor, directory / "agent"), host(directory / "agent", sync_limit) {}
    TemporaryDirectory directory;
    FakeServer server;
    GuestAgent host;
};

Task<> expect_ping(GuestAgent& host) {
    co_await host.ping(soon());
}

template <typename T>
Task<> expect_failure(Task<T> operation, ErrorCode code, std::string part) {
    const Error error = co_await failure_of(std::move(operation));
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
}

// --- reaching it -------------------------------------------------------------------------------------------

Task<> absent() {
    const TemporaryDirectory directory;
    GuestAgent host(directory / "none");
    co_await expect_failure(host.ping(soon()), ErrorCode::agent_unavailable, "does not exist");
    { const UniqueFd dead = listen_unix(directory / "none", 0600); }
    co_await expect_failure(host.ping(soon()), ErrorCode::agent_unavailable, "nobody listens");
}
TEST(GuestAgent, SocketIsAbsent) {
    async::run(absent());
}

Task<> nobody_answers() {
    Setup setup(co_await async::asio::this_coro::executor, short_sync);
    co_await expect_failure(setup.host.ping(soon()), ErrorCode::agent_unavailable, "does not answer");
    // The deadline may be the shorter one. The command itself was never sent.
    co_await expect_failure(setup.host.ping(after_ms(10)), ErrorCode::agent_unavailable, "does not answer");
    const auto agent = co_await setup.server.accept();
    (void)co_await hear_sync(*agent);
    (void)co_await hear_sync(*agent);
    setup.host.close();
    EXPECT_EQ(co_await agent->hear(), std::nullopt);
}
TEST(GuestAgent, NobodyAnswers) {
    async::run(nobody_answers());
}

Task<> unread_messages_do_not_pile_up() {
    Setup setup(co_await async::asio::this_coro::executor, std::chrono::milliseconds(0));
    // As with a guest whose port is not open: QEMU reads nothing. The socket takes some hundred messages.
    for (int i = 0; i < 1000; ++i)
        co_await expect_failure(setup.host.ping(soon()), ErrorCode::agent_unavailable, "");
    setup.host.close();
}
TEST(GuestAgent, MessagesThatNobodyReadsDoNotPileUp) {
    async::run(unread_messages_do_not_pile_up());
}

Task<> restart_between_commands() {
    Setup setup(co_await async::asio::this_coro::executor);
    for (int i = 0; i < 2; ++i) {
        const auto serve = [](FakeServer& server) -> Task<> {
            const auto agent = co_await server.accept();
            co_await answer_sync(*agent);
            co_await answer(*agent, "guest-ping", "{\"return\": {}}\n");
        };
        co_await together(serve(setup.server), expect_ping(setup.host));
    }
}
TEST(GuestAgent, ConnectsAgainWhenQemuWasRestarted) {
    async::run(restart_between_commands());
}

Task<> lost_in_a_command() {
    Setup setup(co_await async::asio::this_coro::executor);
    const auto serve = [](FakeServer& server) -> Task<> {
        const auto agent = co_await server.accept();
        co_await answer_sync(*agent);
        co_await answer(*agent, "guest-ping", "{\"retu");
    };
    co_await together(serve(setup.server),
                      expect_failure(setup.host.ping(soon()), ErrorCode::agent_unavailable, "lost"));
}
TEST(GuestAgent, ConnectionLostInACommand) {
    async::run(lost_in_a_command());
}

Task<> closed_in_a_command() {
    Setup setup(co_await async::asio::this_coro::executor);
    const auto serve = [](Setup& s) -> Task<> {
        const auto agent = co_await s.server.accept();
        co_await answer_sync(*agent);
        (void)co_await agent->hear();
        s.host.close();
        EXPECT_EQ(co_await agent->hear(), std::nullopt);
    };
    co_await together(serve(setup),
                      expect_failure(setup.host.ping(soon()), ErrorCode::agent_unavailable, "closed"));
}
TEST(GuestAgent, ClosedInACommand) {
    async::run(closed_in_a_command());
}

// --- synchronising -----------------------------------------------------------------------------------------

Task<> junk_before_the_answer() {
    Setup setup(co_await async::asio::this_coro::executor);
    const auto serve = [](FakeServer& server) -> Task<> {
        const auto agent = co_await server.accept();
        // What an earlier client left unread, and what a hostile guest makes up.
        co_await agent->say("{\"return\": 17}\n\xff{\"return\": 99}\n{\"return\": {\"half");
        const std::uint64_t id = co_await hear_sync(*agent);
        co_await agent->say("\x01\x02\xff\xff\n\xff[[[[\n\xff" + std::string(3 << 20, 'x'));
        co_await agent->say(fmt::format("\n{{\"return\": {}}}\n", id));  // right, but not delimited
        co_await agent->say(fmt::format("\xff{{\"return\": \"{}\"}}\n", id));
        for (const char c : sync_answer(id)) co_await agent->say(std::string(1, c));
        co_await answer(*agent, "guest-ping", "\r\n{\"return\": {}}\r\n");
        // In sync: no need to ask again.
        co_await answer(*agent, "guest-ping", "{\"return\": {}}\n");
    };
    const auto ping_twice = [](GuestAgent& host) -> Task<> {
        co_await host.ping(soon());
        co_await host.ping(soon());
    };
    co_await together(serve(setup.server), ping_twice(setup.host));
}
TEST(GuestAgent, SynchronisesOverJunk) {
    async::run(junk_before_the_answer());
}

Task<> stray_bytes_when_idle() {
    Setup setup(co_await async::asio::this_coro::executor);
    const auto serve = [](FakeServer& server, GuestAgent& host) -> Task<> {
        const auto agent = co_await server.accept();
        co_await answer_sync(*agent);
        co_await answer(*agent, "guest-ping", "{\"return\": {}}\n{\"return\": \"stray\"}\n");
        for (const char* stray : {"{\"return\": \"stray\"}\n", "{", "\n"}) {
            co_await agent->say(stray);
            const auto again = [](FakePeer& peer) -> Task<> {
                co_await answer_sync(peer);
                co_await answer(peer, "guest-ping", "{\"return\": {}}\n");
            };
            co_await together(again(*agent), expect_ping(host));
        }
    };
    const auto ping = [](GuestAgent& host) -> Task<> { co_await host.ping(soon()); };
    co_await together(serve(setup.server, setup.host), ping(setup.host));
}
TEST(GuestAgent, SynchronisesAfterWhatNobodyAskedFor) {
    async::run(stray_bytes_when_idle());
}

Task<> flood() {
    Setup setup(co_await async::asio::this_coro::executor);
    const auto serve = [](FakeServer& server) -> Task<> {
        const auto agent = co_await server.accept();
        for (int i = 0; i < 18; ++i) co_await agent->say(std::string(1 << 20, 'x'));
    };
    co_await together(serve(setup.server),
                      expect_failure(setup.host.ping(soon()), ErrorCode::agent_unavailable, "more than"));
}
TEST(GuestAgent, AFloodEndsTheConnection) {
    async::run(flood());
}

Task<> reads_only_when_it_waits() {
    Setup setup(co_await async::asio::this_coro::executor);
    const auto serve = [](FakeServer& server, bool& blocked) -> Task<> {
        const auto agent = co_await server.accept();
        co_await answer_sync(*agent);
        co_await answer(*agent, "guest-ping", "{\"return\": {}}\n");
        const Error error = co_await failure_of(
            async::with_deadline(agent->say(std::string(8 << 20, 'x')), after_ms(100), "the host to read"));
        blocked = error.code() == ErrorCode::timeout;
    };
    bool blocked = false;
    co_await together(serve(setup.server, blocked), expect_ping(setup.host));
    EXPECT_TRUE(blocked);
}
TEST(GuestAgent, AChattyGuestIsSlowedDown) {
    async::run(reads_only_when_it_waits());
}

// --- late answers ------------------------------------------------------------------------------------------

/// Frozen or not, the agent says nothing; it had answered before.
Task<> serve_mute_freeze(FakeServer& server, std::unique_ptr<FakePeer>& agent) {
    agent = co_await server.accept();
    co_await answer_sync(*agent);
    co_await answer(*agent, "guest-ping", "{\"return\": {}}\n");
    co_await answer(*agent, "guest-fsfreeze-freeze", "");
}

Task<> give_up_freeze(GuestAgent& host) {
    co_await host.ping(soon());
    co_await expect_failure(host.fsfreeze_freeze(after_ms(50)), ErrorCode::timeout, "guest agent");
}

Task<> expect_thaw(GuestAgent& host, std::uint64_t file_systems) {
    const FreezeAnswer thawed = co_await host.fsfreeze_thaw(soon());
    EXPECT_EQ(thawed.file_systems, file_systems);
}

/// The answer to a freeze that was given up comes before that to the synchronisation of the thaw.
Task<> late_freeze_before() {
    Setup setup(co_await async::asio::this_coro::executor);
    std::unique_ptr<FakePeer> agent;
    co_await together(serve_mute_freeze(setup.server, agent), give_up_freeze(setup.host));
    const auto late = [](FakePeer& peer) -> Task<> {
        const std::uint64_t id = co_await hear_sync(peer);
        co_await peer.say("{\"return\": 3}\n" + sync_answer(id));
        co_await answer(peer, "guest-fsfreeze-thaw", "{\"return\": 2}\n");
    };
    co_await together(late(*agent), expect_thaw(setup.host, 2));
}
TEST(GuestAgent, ThawsAfterAFreezeThatAnswersLate) {
    async::run(late_freeze_before());
}

/// The agent hangs in the freeze over several attempts to thaw, and comes back with everything at once.
Task<> late_freeze_long_after() {
    Setup setup(co_await async::asio::this_coro::executor);
    std::unique_ptr<FakePeer> agent;
    co_await together(serve_mute_freeze(setup.server, agent), give_up_freeze(setup.host));
    for (int i = 0; i < 2; ++i)
        co_await expect_failure(setup.host.fsfreeze_thaw(after_ms(50)), ErrorCode::agent_unavailable,
                                "does not answer");
    const auto late = [](FakePeer& peer) -> Task<> {
        const std::uint64_t first = co_await hear_sync(peer);
        const std::uint64_t second = co_await hear_sync(peer);
        const std::uint64_t third = co_await hear_sync(peer);
        EXPECT_NE(first, second);
        co_await peer.say("{\"return\": 3}\n" + sync_answer(first) + sync_answer(second) +
                          sync_answer(third));
        co_await answer(peer, "guest-fsfreeze-thaw", "{\"return\": 3}\n");
    };
    co_await together(late(*agent), expect_thaw(setup.host, 3));
}
TEST(GuestAgent, ThawsAfterAFreezeThatHangsLong) {
    async::run(late_freeze_long_after());
}

Task<> times() {
    Setup setup(co_await async::asio::this_coro::executor);
    const auto serve = [](FakeServer& server) -> Task<> {
        const auto agent = co_await server.accept();
        co_await answer_sync(*agent);
        (void)co_await agent->hear();
        co_await async::sleep_until(after_ms(50));
        co_await agent->say("{\"return\": 1}\n");
    };
    const auto freeze = [](GuestAgent& host) -> Task<> {
        const FreezeAnswer frozen = co_await host.fsfreeze_freeze(soon());
        EXPECT_GE(frozen.times.answered - frozen.times.sent, std::chrono::milliseconds(50));
    };
    co_await together(serve(setup.server), freeze(setup.host));
}
TEST(GuestAgent, TellsWhenItSentAndWhenTheAnswerWasThere) {
    async::run(times());
}

// --- answers -----------------------------------------------------------------------------------------------

Task<> serve_one(FakeServer& server, std::string command, std::string bytes) {
    const auto agent = co_await server.accept();
    co_await answer_sync(*agent);
    co_await answer(*agent, std::move(command), std::move(bytes));
}

Task<> refusals() {
    struct Case {
        const char* answer;
        ErrorCode code;
        const char* part;
    };
    const std::vector<Case> cases{
        {R"({"error": {"class": "CommandNotFound", "desc": "The command x has not been found"}})",
         ErrorCode::unsupported, "not been found"},
        {R"({"error": {"class": "GenericError", "desc": "The command x has been disabled for this instance"}})",
         ErrorCode::unsupported, "disabled"},
        {R"({"error": {"class": "GenericError", "desc": "failed to freeze /: Device or resource busy"}})",
         ErrorCode::quiesce_failed, "resource busy"},
        {R"({"error": {"desc": "\u0000\u001b[2J"}})", ErrorCode::quiesce_failed, "\\x00\\x1b[2J"},
        {R"({"error": 7})", ErrorCode::agent_unavailable, "expected an object"},
        {R"({"return": -1})", ErrorCode::agent_unavailable, "not negative"},
        {R"({"return": "3"})", ErrorCode::agent_unavailable, "number"},
        {R"({"returns": 3})", ErrorCode::agent_unavailable, "no answer"},
        {R"([3])", ErrorCode::agent_unavailable, "expected an object"},
        {"\x01\x02\x03", ErrorCode::agent_unavailable, "not JSON"},
    };
    for (const Case& c : cases) {
        Setup setup(co_await async::asio::this_coro::executor);
        co_await together(serve_one(setup.server, "guest-fsfreeze-freeze", std::string(c.answer) + "\n"),
                          expect_failure(setup.host.fsfreeze_freeze(soon()), c.code, c.part));
    }
}
TEST(GuestAgent, AnswersThatAreNone) {
    async::run(refusals());
}

Task<> long_answer() {
    Setup setup(co_await async::asio::this_coro::executor);
    const auto serve = [](FakeServer& server) -> Task<> {
        const auto agent = co_await server.accept();
        co_await answer_sync(*agent);
        co_await answer(*agent, "guest-ping", "{\"return\": \"" + std::string(2 << 20, 'x') + "\"}\n");
        co_await answer_sync(*agent);
        co_await answer(*agent, "guest-ping", "{\"return\": {}}\n");
    };
    const auto ping_twice = [](GuestAgent& host) -> Task<> {
        co_await expect_failure(host.ping(soon()), ErrorCode::agent_unavailable, "longer than");
        co_await host.ping(soon());
    };
    co_await together(serve(setup.server), ping_twice(setup.host));
}
TEST(GuestAgent, AnswersThatAreTooLong) {
    async::run(long_answer());
}

Task<> typed() {
    Setup setup(co_await async::asio::this_coro::executor);
    const auto serve = [](FakeServer& server) -> Task<> {
        const auto agent = co_await server.accept();
        co_await answer_sync(*agent);
        co_await answer(
            *agent, "guest-info",
            "{\"return\": {\"version\": \"7.2.0\", \"supported_commands\": [{\"name\": \"guest-ping\", "
            "\"enabled\": true}, {\"name\": \"guest-exec\", \"enabled\": false}]}}\n");
        co_await answer(*agent, "guest-get-osinfo",
                        "{\"return\": {\"id\": \"mswindows\", \"kernel-release\": \"1\"}}\n");
        co_await answer(*agent, "guest-fsfreeze-status", "{\"return\": \"frozen\"}\n");
        co_await answer(*agent, "guest-fsfreeze-status", "{\"return\": \"tepid\"}\n");
        co_await answer_sync(*agent);
    };
    const auto ask = [](GuestAgent& host) -> Task<> {
        const AgentInfo info = co_await host.info(soon());
        EXPECT_EQ(info.version, "7.2.0");
        EXPECT_EQ(info.commands, std::set<std::string>{"guest-ping"});
        const OsInfo os = co_await host.get_osinfo(soon());
        EXPECT_TRUE(os.windows());
        EXPECT_EQ(os.pretty_name, "");
        EXPECT_EQ(co_await host.fsfreeze_status(soon()), FreezeStatus::frozen);
        const Error error = co_await failure_of(host.fsfreeze_status(soon()));
        EXPECT_EQ(error.code(), ErrorCode::agent_unavailable);
        co_await host.sync(soon());
    };
    co_await together(serve(setup.server), ask(setup.host));
}
TEST(GuestAgent, TypedAnswers) {
    async::run(typed());
}

Task<> one_at_a_time() {
    Setup setup(co_await async::asio::this_coro::executor);
    const auto serve = [](FakeServer& server) -> Task<> {
        const auto agent = co_await server.accept();
        co_await answer_sync(*agent);
        for (int i = 0; i < 3; ++i) {
            (void)co_await agent->hear();
            const Error second = co_await failure_of(async::with_deadline(
                agent->hear(), after_ms(20), "a second command while the first is under way"));
            EXPECT_EQ(second.code(), ErrorCode::timeout);
            co_await agent->say("{\"return\": {}}\n");
        }
    };
    co_await together(
        serve(setup.server),
        together(expect_ping(setup.host), together(expect_ping(setup.host), expect_ping(setup.host))));
}
TEST(GuestAgent, OneCommandAtATime) {
    async::run(one_at_a_time());
}

Task<> no_turn() {
    Setup setup(co_await async::asio::this_coro::executor);
    const auto serve = [](FakeServer& server, GuestAgent& host) -> Task<> {
        const auto agent = co_await server.accept();
        co_await answer_sync(*agent);
        (void)co_await agent->hear();
        // Timeout would mean that this one may have been carried out.
        co_await expect_failure(host.fsfreeze_freeze(after_ms(20)), ErrorCode::busy, "another command");
        co_await agent->say("{\"return\": {}}\n");
    };
    co_await together(serve(setup.server, setup.host), expect_ping(setup.host));
}
TEST(GuestAgent, ACommandThatHadNoTurnWasNotSent) {
    async::run(no_turn());
}

/// The answer is there, and before its reader goes on, somebody closes the connection.
Task<> closed_after_the_answer() {
    Setup setup(co_await async::asio::this_coro::executor);
    for (int turns = 0; turns < 8; ++turns) {
        const auto serve = [](Setup& s, int yields) -> Task<> {
            const auto agent = co_await s.server.accept();
            co_await answer_sync(*agent);
            for (int i = 0; i < yields; ++i) co_await async::yield();
            s.host.close();
        };
        co_await together(serve(setup, turns),
                          expect_failure(setup.host.ping(soon()), ErrorCode::agent_unavailable, "closed"));
    }
}
TEST(GuestAgent, ClosedRightAfterItIsInSync) {
    async::run(closed_after_the_answer());
}

}  // namespace
}  // namespace volchain::qmp::guest_agent_test
