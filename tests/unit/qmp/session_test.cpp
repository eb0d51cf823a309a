// SPDX-License-Identifier: MIT
// Sessions with a peer that misbehaves. session_qemu_test.cpp has those with a real one.
#include "qmp/session.h"

#include <sys/socket.h>

#include <fstream>

#include "async/task_group.h"
#include "base/log.h"
#include "qmp/event_queue.h"
#include "support.h"

namespace volchain::qmp::session_test {
namespace {

using Reason = ConnectError::Reason;

/// The reason of the ConnectError that connecting to that socket throws.
Task<Reason> reason_of(std::string path, async::Deadline deadline) {
    try {
        (void)co_await Session::connect(std::move(path), deadline);
    } catch (const ConnectError& error) {
        EXPECT_EQ(error.code(), ErrorCode::unreachable);
        co_return error.reason();
    }
    ADD_FAILURE() << "connected";
    co_return Reason::lost;
}

Task<> hang_up_after(FakeServer& server, std::string bytes) {
    const auto peer = co_await server.accept();
    co_await peer->say(std::move(bytes));
    peer->hang_up();
}

Task<> expect_reason(Reason& reason, std::string path) {
    reason = co_await reason_of(std::move(path), soon());
}

// --- connecting --------------------------------------------------------------------------------------------

Task<> nobody_listens() {
    const TemporaryDirectory directory;
    EXPECT_EQ(co_await reason_of(directory / "none", soon()), Reason::nobody_listens);
    { const UniqueFd dead = listen_unix(directory / "dead", 0600); }
    EXPECT_EQ(co_await reason_of(directory / "dead", soon()), Reason::nobody_listens);
    std::ofstream(directory / "file") << "x";
    EXPECT_EQ(co_await reason_of(directory / "file", soon()), Reason::nobody_listens);
    EXPECT_EQ(co_await reason_of(directory / "file/x", soon()), Reason::nobody_listens);
    const Error error = co_await failure_of(Session::connect(std::string(200, 'x'), soon()));
    EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
}
TEST(Session, NobodyListens) {
    async::run(nobody_listens());
}

Task<> no_greeting() {
    const TemporaryDirectory directory;
    const UniqueFd listening = listen_unix(directory / "s", 0600);
    EXPECT_EQ(co_await reason_of(directory / "s", after_ms(30)), Reason::held_by_another_client);
    // The queue of the socket fills up: the kernel refuses then.
    std::vector<UniqueFd> waiting;
    try {
        for (int i = 0; i < 10; ++i) waiting.push_back(connect_unix(directory / "s"));
        ADD_FAILURE() << "the queue does not fill";
    } catch (const ConnectError& error) {
        EXPECT_EQ(error.reason(), Reason::held_by_another_client) << error.what();
    }
}
TEST(Session, AMonitorWithoutGreetingIsHeldByAnotherClient) {
    async::run(no_greeting());
}

Task<> ends_before_greeting() {
    const TemporaryDirectory directory;
    FakeServer server(co_await async::asio::this_coro::executor, directory / "s");
    struct Case {
        const char* bytes;
        Reason reason;
    };
    const std::vector<Case> cases{{"", Reason::lost},
                                  {"{\"QMP\": {\"vers", Reason::lost},
                                  {"SSH-2.0-OpenSSH\r\n", Reason::not_qmp},
                                  {"{\"QMP\": {\"version\": 7}}\r\n", Reason::not_qmp}};
    for (const Case& c : cases) {
        Reason reason{};
        co_await together(hang_up_after(server, c.bytes), expect_reason(reason, directory / "s"));
        EXPECT_EQ(reason, c.reason) << c.bytes;
    }
}
TEST(Session, EndsBeforeItsGreeting) {
    async::run(ends_before_greeting());
}

Task<> greet_in_bytes(FakePeer& peer) {
    const std::string greeting =
        "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 1, \"minor\": 0, \"major\": 10}}, \"capabilities\": "
        "[]}}\r\n";
    for (const char c : greeting) {
        co_await peer.say(std::string(1, c));
        co_await async::yield();
    }
    const std::uint64_t id = co_await peer.hear_command("qmp_capabilities");
    co_await peer.say(fmt::format("{{\"id\": {}, \"return\": {{}}}}\n", id));
}

Task<> adopt(std::shared_ptr<Session>& session, UniqueFd connected) {
    session = co_await Session::adopt(std::move(connected), "pair", soon());
}

Task<> greeting_in_pieces() {
    auto [ours, theirs] = connected_pair();
    FakePeer peer(co_await async::asio::this_coro::executor, std::move(theirs));
    std::shared_ptr<Session> session;
    co_await together(greet_in_bytes(peer), adopt(session, std::move(ours)));
    EXPECT_EQ(session->greeting().version, "10.0.1");
    EXPECT_EQ(session->name(), "pair");
    EXPECT_FALSE(session->closed());
    EXPECT_EQ(session->peer(), nullptr) << "the peer is this process";
    EXPECT_FALSE(co_await session->peer_exited(after_ms(1)));
}
TEST(Session, GreetingInPieces) {
    async::run(greeting_in_pieces());
}

// --- answers -----------------------------------------------------------------------------------------------

Task<> answer(FakePeer& peer, std::string command, std::string rest) {
    const std::uint64_t id = co_await peer.hear_command(std::move(command));
    co_await peer.say(fmt::format("{{\"id\": {}, {}}}\r\n", id, rest));
}

Task<> expect_value(std::shared_ptr<Session> session, std::string command, Json value) {
    EXPECT_EQ(co_await session->execute(std::move(command), Json::object(), soon()), value);
}

Task<> answers_out_of_order() {
    FakeSession fake = co_await fake_session();
    const auto reversed = [](FakePeer& peer) -> Task<> {
        const std::uint64_t one = co_await peer.hear_command("one");
        const std::uint64_t two = co_await peer.hear_command("two");
        co_await peer.say(
            fmt::format("{{\"return\": 2, \"id\": {}}}\n{{\"return\": 1, \"id\": {}}}\n", two, one));
    };
    co_await together(reversed(*fake.peer),
                      together(expect_value(fake.session, "one", 1), expect_value(fake.session, "two", 2)));
}
TEST(Session, AnswersGoToThoseWhoAsked) {
    async::run(answers_out_of_order());
}

Task<> refusals() {
    FakeSession fake = co_await fake_session();
    const auto refused = [](std::shared_ptr<Session> session) -> Task<> {
        try {
            (void)co_await session->execute("x-y", Json::object(), soon());
            ADD_FAILURE() << "accepted";
        } catch (const CommandError& error) {
            EXPECT_EQ(error.error_class(), "CommandNotFound");
            EXPECT_EQ(error.code(), ErrorCode::unsupported);
            EXPECT_GT(error.times().answered, error.times().sent);
            EXPECT_GT(error.times().sent, async::Clock::time_point());
        }
    };
    co_await together(answer(*fake.peer, "x-y", R"("error": {"class": "CommandNotFound", "desc": "What?"})"),
                      refused(fake.session));
    // A name that is not UTF-8 cannot be sent, and does no harm.
    Json arguments;
    arguments["filename"] = "/tmp/\xff";
    const Error unsendable = co_await failure_of(fake.session->execute("x", std::move(arguments), soon()));
    EXPECT_EQ(unsendable.code(), ErrorCode::invalid_argument);
    co_await together(answer(*fake.peer, "z", "\"return\": 3"), expect_value(fake.session, "z", 3));
}
TEST(Session, Refusals) {
    async::run(refusals());
}

Task<> late_answers() {
    FakeSession fake = co_await fake_session();
    const Error error = co_await failure_of(fake.session->execute("slow", Json::object(), after_ms(20)));
    EXPECT_EQ(error.code(), ErrorCode::timeout);
    EXPECT_NE(std::string(error.what()).find("slow"), std::string::npos) << error.what();
    const auto late = [](FakePeer& peer) -> Task<> {
        const std::uint64_t slow = co_await peer.hear_command("slow");
        const std::uint64_t next = co_await peer.hear_command("next");
        co_await peer.say(fmt::format("{{\"return\": 1, \"id\": {}}}\n", slow));
        // And some that nobody ever asked for.
        co_await peer.say("{\"return\": 8}\n{\"return\": 9, \"id\": 999}\n{\"return\": 9, \"id\": \"x\"}\n");
        co_await peer.say(fmt::format("{{\"return\": 2, \"id\": {}}}\n", next));
    };
    co_await together(late(*fake.peer), expect_value(fake.session, "next", 2));
    EXPECT_FALSE(fake.session->closed());
}
TEST(Session, LateAndWrongAnswersAreDropped) {
    async::run(late_answers());
}

Task<> times_of_an_answer() {
    FakeSession fake = co_await fake_session();
    const auto slow = [](FakePeer& peer) -> Task<> {
        const std::uint64_t id = co_await peer.hear_command("x");
        co_await async::sleep_until(after_ms(50));
        co_await peer.say(fmt::format("{{\"return\": 1, \"id\": {}}}\n", id));
    };
    const auto measure = [](std::shared_ptr<Session> session) -> Task<> {
        const auto before = async::Clock::now();
        const Answer answer = co_await session->ask("x", Json::object(), soon());
        EXPECT_EQ(answer.value, Json(1));
        EXPECT_GE(answer.times.sent, before);
        EXPECT_GE(answer.times.answered - answer.times.sent, std::chrono::milliseconds(50));
        EXPECT_LE(answer.times.answered, async::Clock::now());
    };
    co_await together(slow(*fake.peer), measure(fake.session));
}
TEST(Session, TellsWhenItSentAndWhenTheAnswerWasThere) {
    async::run(times_of_an_answer());
}

Task<> messages_are_never_cut() {
    FakeSession fake = co_await fake_session();
    // Far more than the socket takes: the writing of "big" begins, and is given up half way; "unsent" waits
    // behind it.
    Json big;
    big["text"] = std::string(std::size_t{4} << 20, 'x');
    const Error gave_up = co_await failure_of(fake.session->execute("big", std::move(big), after_ms(20)));
    EXPECT_EQ(gave_up.code(), ErrorCode::timeout);
    const Error unsent = co_await failure_of(fake.session->execute("unsent", Json::object(), after_ms(20)));
    EXPECT_EQ(unsent.code(), ErrorCode::timeout);
    const auto hear_all = [](FakePeer& peer) -> Task<> {
        (void)co_await peer.hear_command("big");
        const std::uint64_t id = co_await peer.hear_command("next");
        co_await peer.say(fmt::format("{{\"return\": 5, \"id\": {}}}\n", id));
    };
    co_await together(hear_all(*fake.peer), expect_value(fake.session, "next", 5));
}
TEST(Session, GivingUpNeverCutsAMessage) {
    async::run(messages_are_never_cut());
}

Task<> too_many() {
    FakeSession fake = co_await fake_session();
    for (int i = 0; i < 64; ++i) {
        const Error error = co_await failure_of(fake.session->execute("x", Json::object(), after_ms(0)));
        EXPECT_EQ(error.code(), ErrorCode::timeout);
    }
    const Error error = co_await failure_of(fake.session->execute("x", Json::object(), soon()));
    EXPECT_EQ(error.code(), ErrorCode::busy) << error.what();
    // When it answers again, there is room again.
    const auto catch_up = [](FakePeer& peer) -> Task<> {
        for (int i = 0; i < 64; ++i) co_await answer(peer, "x", "\"return\": 0");
        co_await peer.say("{\"event\": \"UP\"}\n");
    };
    EventQueue events(fake.session, Words{"UP"});
    co_await catch_up(*fake.peer);
    (void)co_await events.next(soon(), "all answers");
    co_await together(answer(*fake.peer, "y", "\"return\": 1"), expect_value(fake.session, "y", 1));
}
TEST(Session, LeavesNoMoreThanSomeCommandsUnanswered) {
    async::run(too_many());
}

// --- loss --------------------------------------------------------------------------------------------------

Task<> cut_in_an_answer() {
    FakeSession fake = co_await fake_session();
    int closed = 0;
    const Subscription subscription = fake.session->subscribe({}, [&closed] { ++closed; });
    const auto cut = [](FakePeer& peer) -> Task<> {
        const std::uint64_t id = co_await peer.hear_command("x");
        co_await peer.say(fmt::format("{{\"id\": {}, \"retu", id));
        peer.hang_up();
    };
    const auto fails = [](std::shared_ptr<Session> session) -> Task<> {
        const Error error = co_await failure_of(session->execute("x", Json::object(), soon()));
        EXPECT_EQ(error.code(), ErrorCode::unreachable);
        EXPECT_NE(std::string(error.what()).find("closed the connection"), std::string::npos) << error.what();
    };
    co_await together(cut(*fake.peer), fails(fake.session));
    EXPECT_TRUE(fake.session->closed());
    EXPECT_EQ(closed, 1);
    EXPECT_FALSE(fake.session->close_reason().empty());
    co_await fake.session->wait_closed(soon());
    co_await fails(fake.session);
    co_await fake.session->close();
    EXPECT_EQ(closed, 1);
}
TEST(Session, ConnectionCutInAnAnswer) {
    async::run(cut_in_an_answer());
}

Task<> foreign_text() {
    for (const char* text : {"what is this\n", "[[[[[[[[[[\n", "{\"x\": 1}\n", "\xff\xfe\n"}) {
        FakeSession fake = co_await fake_session();
        co_await fake.peer->say(text);
        co_await fake.session->wait_closed(soon());
        const auto gone = co_await fake.peer->hear();
        EXPECT_EQ(gone, std::nullopt);
    }
}
TEST(Session, ClosesWhereTheOtherSideDoesNotSpeakQmp) {
    async::run(foreign_text());
}

Task<> gigantic_line() {
    FakeSession fake = co_await fake_session();
    const auto flood = [](FakePeer& peer) -> Task<> {
        const std::string megabyte(std::size_t{1} << 20, 'x');
        for (int i = 0; i < 66; ++i) co_await peer.say(megabyte);
    };
    const auto closes = [](std::shared_ptr<Session> session) -> Task<> {
        co_await session->wait_closed(soon());
        EXPECT_NE(session->close_reason().find("a line of more than"), std::string::npos)
            << session->close_reason();
    };
    co_await together(flood(*fake.peer), closes(fake.session));
}
TEST(Session, ClosesAtAGiganticLine) {
    async::run(gigantic_line());
}

Task<> dropped_while_waiting() {
    FakeSession fake = co_await fake_session();
    auto waiting = failure_of(fake.session->execute("x", Json::object(), soon()));
    const auto expect_unreachable = [](Task<Error> failing) -> Task<> {
        const Error error = co_await std::move(failing);
        EXPECT_EQ(error.code(), ErrorCode::unreachable) << error.what();
    };
    const auto drop = [](FakeSession& session) -> Task<> {
        (void)co_await session.peer->hear_command("x");
        session.session.reset();
        EXPECT_EQ(co_await session.peer->hear(), std::nullopt);
    };
    co_await together(expect_unreachable(std::move(waiting)), drop(fake));
}
TEST(Session, DroppedWhileACommandIsUnderWay) {
    async::run(dropped_while_waiting());
}

Task<> stopped_while_waiting() {
    FakeSession fake = co_await fake_session();
    const async::Executor executor = co_await async::asio::this_coro::executor;
    async::TaskGroup tasks(executor);
    const auto ask = [](std::shared_ptr<Session> session) -> Task<> {
        (void)co_await session->execute("x", Json::object(), soon());
    };
    tasks.spawn(ask(fake.session), "asking");
    const std::uint64_t id = co_await fake.peer->hear_command("x");
    co_await tasks.stop();
    co_await fake.peer->say(fmt::format("{{\"return\": 1, \"id\": {}}}\n", id));
    co_await together(answer(*fake.peer, "y", "\"return\": 2"), expect_value(fake.session, "y", 2));
}
TEST(Session, StoppedTasksForgetTheirCommands) {
    async::run(stopped_while_waiting());
}

Task<> close_lets_a_message_end() {
    FakeSession fake = co_await fake_session();
    Json big;
    big["text"] = std::string(std::size_t{1} << 20, 'x');
    const Error gave_up = co_await failure_of(fake.session->execute("big", std::move(big), after_ms(10)));
    EXPECT_EQ(gave_up.code(), ErrorCode::timeout);
    const auto hear_it = [](FakePeer& peer) -> Task<> {
        (void)co_await peer.hear_command("big");
        EXPECT_EQ(co_await peer.hear(), std::nullopt);
    };
    co_await together(fake.session->close(), hear_it(*fake.peer));
}
TEST(Session, CloseLetsAMessageThatIsBeingWrittenEnd) {
    async::run(close_lets_a_message_end());
}

Task<> closed_from_this_side() {
    const TemporaryDirectory directory;
    const auto daemon = co_await storage_daemon(directory);
    co_await daemon->session()->close();
    const Error error = co_await failure_of(daemon->session()->execute("query-jobs", Json::object(), soon()));
    EXPECT_NE(std::string(error.what()).find("closed from this side"), std::string::npos) << error.what();
    EXPECT_EQ(std::string(error.what()).find("process"), std::string::npos) << error.what();
}
TEST(Session, NobodyLooksForTheReasonOfOnesOwnClosing) {
    async::run(closed_from_this_side());
}

// --- events ------------------------------------------------------------------------------------------------

Task<> events_in_order() {
    FakeSession fake = co_await fake_session();
    EventQueue events(fake.session, Words{"A"});
    std::string bytes;
    for (int i = 0; i < 100; ++i)
        bytes += fmt::format("{{\"event\": \"A\", \"data\": {{\"n\": {}}}}}\n{{\"event\": \"B\"}}\n", i);
    co_await fake.peer->say(bytes);
    for (std::uint64_t i = 0; i < 100; ++i) {
        const Event event = co_await events.next(soon(), "event A");
        EXPECT_EQ(event.read().at("n").u64(), i);
    }
    const Error none = co_await failure_of(events.next(after_ms(10), "one more"));
    EXPECT_EQ(none.code(), ErrorCode::timeout);
    // What came before the loss is still there, then the loss.
    co_await fake.peer->say("{\"event\": \"A\"}\n");
    fake.peer->hang_up();
    co_await fake.session->wait_closed(soon());
    EXPECT_EQ((co_await events.next(soon(), "the last")).name, "A");
    const Error lost = co_await failure_of(events.next(soon(), "one more"));
    EXPECT_EQ(lost.code(), ErrorCode::unreachable) << lost.what();
}
TEST(EventQueue, GivesEventsInOrder) {
    async::run(events_in_order());
}

Task<> queue_overflows() {
    FakeSession fake = co_await fake_session();
    EventQueue events(fake.session, Words{"A"});
    EventQueue end(fake.session, Words{"B"});
    std::string bytes;
    for (int i = 0; i < 5000; ++i) bytes += "{\"event\": \"A\"}\n";
    bytes += "{\"event\": \"B\"}\n";
    co_await fake.peer->say(bytes);
    (void)co_await end.next(soon(), "event B");
    for (int i = 0; i < 4096; ++i) (void)co_await events.next(soon(), "event A");
    const Error error = co_await failure_of(events.next(soon(), "event A"));
    EXPECT_EQ(error.code(), ErrorCode::qemu_failed) << error.what();
}
TEST(EventQueue, DoesNotGrowWithoutBound) {
    async::run(queue_overflows());
}

Task<> subscribers_come_and_go() {
    FakeSession fake = co_await fake_session();
    std::vector<std::string> seen;
    Subscription one;
    Subscription two;
    Subscription late;
    one = fake.session->subscribe([&](const Event& event) {
        seen.push_back("one " + event.name);
        two.reset();
        one.reset();
        late = fake.session->subscribe([&](const Event& e) { seen.push_back("late " + e.name); });
    });
    two = fake.session->subscribe([&](const Event&) { seen.emplace_back("two"); });
    const Subscription bad =
        fake.session->subscribe([](const Event&) { throw Error(ErrorCode::busy, "a test"); });
    EventQueue events(fake.session, Words{"B"});
    set_log_sink([](LogLevel, std::string_view, const LogFields&) {});
    co_await fake.peer->say("{\"event\": \"A\"}\n{\"event\": \"B\"}\n");
    (void)co_await events.next(soon(), "event B");
    set_log_sink(log_to_stderr);
    EXPECT_EQ(seen, (std::vector<std::string>{"one A", "late B"}));
}
TEST(Session, SubscribersComeAndGoInTheMiddle) {
    async::run(subscribers_come_and_go());
}

Task<> dropped_by_an_event() {
    FakeSession fake = co_await fake_session();
    int calls = 0;
    std::optional<Subscription> subscription;
    subscription.emplace(fake.session->subscribe([&](const Event&) {
        ++calls;
        fake.session.reset();
    }));
    co_await fake.peer->say("{\"event\": \"A\"}\n{\"event\": \"A\"}\n{\"return\": 1, \"id\": 1}\n");
    EXPECT_EQ(co_await fake.peer->hear(), std::nullopt);
    EXPECT_EQ(calls, 1);
    subscription.reset();
}
TEST(Session, DroppedByItsOwnEvent) {
    async::run(dropped_by_an_event());
}

}  // namespace
}  // namespace volchain::qmp::session_test
