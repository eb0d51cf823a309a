// SPDX-License-Identifier: MIT
// Sessions with real QEMUs.
#include <csignal>

#include "qmp/event_queue.h"
#include "qmp/schema.h"
#include "support.h"

namespace volchain::qmp::session_qemu_test {
namespace {

Task<> negotiated() {
    const TemporaryDirectory directory;
    const auto qemu = co_await Qemu::start(directory, Words());
    EXPECT_FALSE(qemu->session->greeting().version.empty());
    const Json status = co_await qemu->session->execute("query-status", Json::object(), soon());
    EXPECT_EQ(status.at("running"), false);
    // We made the connection and QEMU inherited it: the peer is QEMU nevertheless.
    EXPECT_NE(qemu->session->peer(), nullptr);
    if (qemu->session->peer()) {
        EXPECT_EQ(qemu->session->peer()->pid(), qemu->process.pid());
        EXPECT_EQ(qemu->session->peer()->uid(), ::geteuid());
    }
    try {
        (void)co_await qemu->session->execute("no-such-command", Json::object(), soon());
        ADD_FAILURE() << "accepted";
    } catch (const CommandError& error) {
        EXPECT_EQ(error.code(), ErrorCode::unsupported) << error.what();
    }
    co_await qemu->session->close();
    EXPECT_TRUE(qemu->session->closed());
}
TEST(SessionWithQemu, Negotiates) {
    async::run(negotiated());
}

Task<> second_client() {
    const TemporaryDirectory directory;
    const auto qemu = co_await Qemu::start(directory, Words());
    const auto first = co_await Session::connect(directory / "qemu.sock", soon());
    // We made the socket and QEMU inherited it: the peer is QEMU nevertheless.
    EXPECT_EQ(first->peer()->pid(), qemu->process.pid());
    const Error error = co_await failure_of(Session::connect(directory / "qemu.sock", after_ms(100)));
    EXPECT_EQ(error.code(), ErrorCode::unreachable);
    EXPECT_NE(std::string(error.what()).find("another client holds this monitor"), std::string::npos)
        << error.what();
    // Once the first has gone, the next one is served.
    co_await first->close();
    const auto next = co_await Session::connect(directory / "qemu.sock", soon());
    EXPECT_EQ(next->peer()->pid(), qemu->process.pid());
    co_await next->close();
}
TEST(SessionWithQemu, ServesOneClient) {
    async::run(second_client());
}

Task<> run_and_stop() {
    const TemporaryDirectory directory;
    const auto qemu = co_await Qemu::start(directory, Words());
    EventQueue events(qemu->session, Words{"RESUME", "STOP"});
    for (int i = 0; i < 3; ++i) {
        (void)co_await qemu->session->execute("cont", Json::object(), soon());
        (void)co_await qemu->session->execute("stop", Json::object(), soon());
    }
    Timestamp last;
    for (int i = 0; i < 6; ++i) {
        const Event event = co_await events.next(soon(), "an event");
        EXPECT_EQ(event.name, i % 2 == 0 ? "RESUME" : "STOP");
        EXPECT_GE(event.time, last);
        last = event.time;
    }
}
TEST(SessionWithQemu, TellsEventsInOrder) {
    async::run(run_and_stop());
}

Task<> killed() {
    const TemporaryDirectory directory;
    const auto qemu = co_await Qemu::start(directory, Words());
    // Stopped, so that the command is surely under way when it dies.
    qemu->process.signal(SIGSTOP);
    const auto ask = [](std::shared_ptr<Session> session) -> Task<> {
        const Error error = co_await failure_of(session->execute("query-block", Json::object(), soon()));
        EXPECT_EQ(error.code(), ErrorCode::unreachable);
        EXPECT_NE(std::string(error.what()).find("has ended"), std::string::npos) << error.what();
    };
    const auto kill = [](async::Process& process) -> Task<> {
        process.signal(SIGKILL);
        (void)co_await process.wait(soon());
    };
    co_await together(ask(qemu->session), kill(qemu->process));
    EXPECT_TRUE(co_await qemu->session->peer_exited(soon()));
    EXPECT_EQ(qemu->session->shutdown_reason(), std::nullopt);
}
TEST(SessionWithQemu, KilledInACommand) {
    async::run(killed());
}

Task<> quits() {
    const TemporaryDirectory directory;
    const auto qemu = co_await Qemu::start(directory, Words());
    EXPECT_FALSE(co_await qemu->session->peer_exited(after_ms(1)));
    (void)co_await qemu->session->execute("quit", Json::object(), soon());
    co_await qemu->session->wait_closed(soon());
    EXPECT_TRUE(co_await qemu->session->peer_exited(soon()));
    EXPECT_EQ(qemu->session->shutdown_reason(), "host-qmp-quit");
}
TEST(SessionWithQemu, QuitsInOrder) {
    async::run(quits());
}

Task<> large_answer() {
    const TemporaryDirectory directory;
    const auto qemu = co_await Qemu::start(directory, Words());
    Json dump_memory;
    dump_memory["command-line"] = "xp /1800000xb 0";
    const Answer answer =
        co_await qemu->session->ask("human-monitor-command", std::move(dump_memory), soon());
    EXPECT_GT(answer.value.get_ref<const std::string&>().size(), std::size_t{10} << 20);
    EXPECT_FALSE(qemu->session->closed());
}
TEST(SessionWithQemu, LargeAnswer) {
    async::run(large_answer());
}

// --- schema ------------------------------------------------------------------------------------------------

Task<> ask_schema(std::shared_ptr<Session> session, std::shared_ptr<const Schema>& schema) {
    schema = co_await session->schema(soon());
}

Task<> probes() {
    const TemporaryDirectory directory;
    const auto qemu = co_await Qemu::start(directory, Words());
    std::shared_ptr<const Schema> schema;
    std::shared_ptr<const Schema> same;
    co_await together(ask_schema(qemu->session, schema), ask_schema(qemu->session, same));
    EXPECT_EQ(schema, same) << "read twice";
    EXPECT_TRUE(schema->has_command("query-status"));
    EXPECT_FALSE(schema->has_command("query-nothing"));
    EXPECT_FALSE(schema->has_command("BLOCK_JOB_READY"));
    EXPECT_TRUE(schema->has_event("BLOCK_JOB_READY"));
    EXPECT_TRUE(schema->command_has_argument({"blockdev-add", "driver"}));
    EXPECT_TRUE(schema->command_has_argument({"blockdev-add", "qcow2", "lazy-refcounts"}));
    EXPECT_TRUE(
        schema->command_has_argument({"blockdev-add", "qcow2", "backing", "qcow2", "file", "file", "aio"}));
    EXPECT_FALSE(schema->command_has_argument({"blockdev-add", "lazy-refcounts"}));
    EXPECT_FALSE(schema->command_has_argument({"blockdev-add", "qcow2", "nothing"}));
    EXPECT_FALSE(schema->command_has_argument({"nothing", "qcow2"}));
    EXPECT_FALSE(schema->command_has_argument({}));
    EXPECT_TRUE(
        schema->command_has_argument({"transaction", "actions", "blockdev-snapshot", "data", "overlay"}));
    EXPECT_TRUE(schema->enum_has_value({"blockdev-add", "file", "aio"}, "threads"));
    EXPECT_FALSE(schema->enum_has_value({"blockdev-add", "file", "aio"}, "telepathy"));
    EXPECT_TRUE(schema->enum_has_value({"block-commit", "on-error"}, "enospc"));
    EXPECT_TRUE(schema->command_returns({"query-named-block-nodes", "dirty-bitmaps", "persistent"}));
    EXPECT_FALSE(schema->command_returns({"query-named-block-nodes", "nothing"}));
}
TEST(SessionWithQemu, SchemaTellsWhatItCanDo) {
    async::run(probes());
}

TEST(Schema, WhatIsNone) {
    for (const char* text :
         {"{}", "[7]", "[{}]", R"([{"name": "x"}])", R"([{"name": "x", "meta-type": "command"}])",
          R"([{"name": "x", "meta-type": "object", "members": [{"name": "y"}]}])"})
        EXPECT_THROW(Schema(json(text)), Error) << text;
}

TEST(Schema, EndsWhereTypesGoRound) {
    const Schema schema(json(R"([{"name": "c", "meta-type": "command", "arg-type": "1", "ret-type": "1"},
        {"name": "1", "meta-type": "alternate", "members": [{"type": "1"}, {"type": "2"}]},
        {"name": "2", "meta-type": "array", "element-type": "1"},
        {"name": "3", "meta-type": "tomorrow"}])"));
    EXPECT_FALSE(schema.command_has_argument({"c"}));
    EXPECT_FALSE(schema.command_has_argument({"c", "x"}));
    EXPECT_FALSE(schema.enum_has_value({"c", "x"}, "y"));
}

}  // namespace
}  // namespace volchain::qmp::session_qemu_test
