// SPDX-License-Identifier: MIT
#include "qmp/migration.h"

#include <fcntl.h>
#include <unistd.h>

#include <fstream>

#include "support.h"

namespace volchain::qmp::migration_test {
namespace {

UniqueFd opened(const std::string& path, int flags) {
    UniqueFd fd(::open(path.c_str(), flags | O_CLOEXEC, 0600));
    EXPECT_TRUE(fd) << path;
    return fd;
}

Task<MigrationInfo> ended(Migration& migration) {
    const async::Deadline limit = soon();
    MigrationInfo info = co_await migration.query(limit);
    while (info.under_way()) {
        co_await migration.wait(limit);
        info = co_await migration.query(limit);
    }
    co_return info;
}

Task<std::string> run_state(const Qemu& qemu) {
    const Json status = co_await qemu.session->execute("query-status", Json::object(), soon());
    co_return status.at("status").get<std::string>();
}

TEST(MigrationInfo, IsParsed) {
    const MigrationInfo none = MigrationInfo::parse(Json::object());
    EXPECT_EQ(none.status, "");
    EXPECT_FALSE(none.under_way());
    EXPECT_FALSE(none.downtime_ms.has_value());
    const MigrationInfo info = MigrationInfo::parse(
        json(R"({"status": "active", "downtime": 7, "blocked-reasons": ["a device"], "error-desc": "e",
                 "ram": {"remaining": 1, "total": 9, "normal": 3, "duplicate": 4}})"));
    EXPECT_TRUE(info.under_way());
    EXPECT_EQ(info.remaining, 1u);
    EXPECT_EQ(info.total, 9u);
    EXPECT_EQ(info.pages, 7u);
    EXPECT_EQ(info.error, "e");
    EXPECT_EQ(info.blocked, Words{"a device"});
    EXPECT_EQ(info.downtime_ms, 7u);
    for (const char* word : {"none", "completed", "failed", "cancelled"})
        EXPECT_FALSE(MigrationInfo::parse({{"status", word}}).under_way()) << word;
    for (const char* word : {"setup", "cancelling", "pre-switchover", "device", "what comes"})
        EXPECT_TRUE(MigrationInfo::parse({{"status", word}}).under_way()) << word;
}

/// Without them nobody is told of a migration.
Task<> turn_on_events(std::shared_ptr<Session> session) {
    Capabilities wanted{{"events", true}};
    co_await set_capabilities(std::move(session), std::move(wanted), soon());
}

Task<> to_a_file_and_from_it() {
    const TemporaryDirectory directory;
    const std::string path = directory / "memory";
    {
        const auto qemu = co_await Qemu::start(directory, Words());
        co_await turn_on_events(qemu->session);
        Migration migration(qemu->session);
        co_await migration.pass(opened(path, O_WRONLY | O_CREAT), soon());
        // Another one in its place, as after an attempt that came to nothing.
        co_await migration.pass(opened(path, O_WRONLY), soon());
        co_await migration.start(soon());
        const MigrationInfo info = co_await ended(migration);
        EXPECT_EQ(info.status, "completed") << info.error;
        EXPECT_GT(info.pages, 0u);
        co_await migration.take_back(soon());
    }
    Words waits{"-incoming", "defer"};
    const TemporaryDirectory another;
    const auto qemu = co_await Qemu::start(another, std::move(waits));
    EXPECT_EQ(co_await run_state(*qemu), "inmigrate");
    co_await turn_on_events(qemu->session);
    Migration migration(qemu->session);
    co_await migration.pass(opened(path, O_RDONLY), soon());
    co_await migration.start_incoming(soon());
    const MigrationInfo info = co_await ended(migration);
    EXPECT_EQ(info.status, "completed") << info.error;
    EXPECT_NE(co_await run_state(*qemu), "inmigrate");
}
TEST(Migration, GoesToAFileAndComesFromIt) {
    async::run(to_a_file_and_from_it());
}

Task<> while_the_guest_runs() {
    const TemporaryDirectory directory;
    const auto qemu = co_await Qemu::start(directory, Words());
    (void)co_await qemu->session->execute("cont", Json::object(), soon());
    const Capabilities former = co_await read_capabilities(qemu->session, soon());
    EXPECT_FALSE(former.at("background-snapshot"));
    try {
        Capabilities wanted{{"background-snapshot", true}, {"events", true}};
        co_await set_capabilities(qemu->session, std::move(wanted), soon());
    } catch (const CommandError& error) {
        GTEST_LOG_(INFO) << "this kernel has no background snapshots: " << error.what();
        co_return;
    }
    EXPECT_TRUE((co_await read_capabilities(qemu->session, soon())).at("background-snapshot"));
    Migration migration(qemu->session);
    EXPECT_EQ(migration.stopped(), std::nullopt);
    (void)co_await qemu->session->execute("stop", Json::object(), soon());
    co_await migration.pass(opened(directory / "memory", O_WRONLY | O_CREAT), soon());
    co_await migration.start(soon());
    const MigrationInfo info = co_await ended(migration);
    EXPECT_EQ(info.status, "completed") << info.error;
    EXPECT_EQ(migration.status(), "completed");
    EXPECT_EQ(co_await run_state(*qemu), "running");
    EXPECT_TRUE(migration.stopped().has_value());
    EXPECT_TRUE(migration.resumed().has_value());
    EXPECT_LE(migration.stopped(), migration.resumed());
    migration.forget_stops();
    EXPECT_EQ(migration.stopped(), std::nullopt);
}
TEST(Migration, GoesOnWhileTheGuestRuns) {
    async::run(while_the_guest_runs());
}

Task<> from_what_is_none() {
    const TemporaryDirectory directory;
    std::ofstream(directory / "memory") << "no memory";
    Words waits{"-incoming", "defer"};
    const TemporaryDirectory another;
    const auto qemu = co_await Qemu::start(another, std::move(waits));
    Migration migration(qemu->session);
    co_await migration.pass(opened(directory / "memory", O_RDONLY), soon());
    // QEMU goes down at that, before or after it has answered.
    try {
        co_await migration.start_incoming(soon());
        const MigrationInfo info = co_await ended(migration);
        EXPECT_EQ(info.status, "failed");
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::unreachable) << error.what();
    }
}
TEST(Migration, FromWhatIsNoneFails) {
    async::run(from_what_is_none());
}

}  // namespace
}  // namespace volchain::qmp::migration_test
