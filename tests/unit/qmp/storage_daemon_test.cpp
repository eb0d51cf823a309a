// SPDX-License-Identifier: MIT
#include "qmp/storage_daemon.h"

#include <sys/stat.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include "base/file.h"
#include "support.h"

namespace volchain::qmp::storage_daemon_test {
namespace {

bool runs(pid_t pid) {
    return ::kill(pid, 0) == 0;
}

Task<> starts_and_stops() {
    const TemporaryDirectory directory;
    const auto daemon = co_await storage_daemon(directory);
    EXPECT_FALSE(std::filesystem::exists(directory / "qsd.sock")) << "it was to be ephemeral";
    EXPECT_EQ(daemon->session()->peer()->pid(), daemon->pid());
    const Json nodes = co_await daemon->session()->execute("query-named-block-nodes", Json::object(), soon());
    EXPECT_TRUE(nodes.empty());
    EXPECT_TRUE(co_await daemon->stop(soon()));
    co_await daemon->wait_ended(soon());
    EXPECT_FALSE(runs(daemon->pid()));
    EXPECT_TRUE(co_await daemon->stop(soon())) << "a second time";
}
TEST(StorageDaemon, StartsAndStops) {
    async::run(starts_and_stops());
}

Task<> keeps_its_socket() {
    const TemporaryDirectory directory;
    StorageDaemonOptions options(directory / "qsd.sock");
    options.ephemeral = false;
    const auto daemon = co_await StorageDaemon::start(options, soon());
    struct stat info {};
    EXPECT_EQ(::stat(options.socket.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0600u);
    const Error taken = co_await failure_of(StorageDaemon::start(options, soon()));
    EXPECT_EQ(taken.code(), ErrorCode::already_exists) << taken.what();
    // It can be found again.
    co_await daemon->session()->close();
    const auto again = co_await StorageDaemon::attach(options.socket, soon());
    EXPECT_EQ(again->pid(), daemon->pid());
    EXPECT_TRUE(co_await again->stop(soon()));
    co_await daemon->wait_ended(soon());
    EXPECT_FALSE(std::filesystem::exists(options.socket));
}
TEST(StorageDaemon, CanKeepItsSocket) {
    async::run(keeps_its_socket());
}

Task<> detached() {
    const TemporaryDirectory directory;
    StorageDaemonOptions options(directory / "qsd.sock");
    options.ephemeral = false;
    options.detached = true;
    auto daemon = co_await StorageDaemon::start(options, soon());
    const pid_t pid = daemon->pid();
    EXPECT_GT(pid, 0);
    daemon.reset();
    EXPECT_TRUE(runs(pid));
    daemon = co_await StorageDaemon::attach(options.socket, soon());
    EXPECT_EQ(daemon->pid(), pid);
    EXPECT_TRUE(co_await daemon->stop(soon()));
    EXPECT_TRUE(co_await daemon->session()->peer_exited(soon()));

    options.arguments = {"--blockdev", "driver=nonsense"};
    const Error error = co_await failure_of(StorageDaemon::start(options, soon()));
    EXPECT_NE(std::string(error.what()).find("nonsense"), std::string::npos) << error.what();
    EXPECT_FALSE(std::filesystem::exists(options.socket));
}
TEST(StorageDaemon, DetachedRunsOn) {
    async::run(detached());
}

Task<> does_not_start() {
    const TemporaryDirectory directory;
    StorageDaemonOptions options(directory / "qsd.sock");
    options.arguments = {"--blockdev", "driver=nonsense"};
    const Error wrong = co_await failure_of(StorageDaemon::start(options, soon()));
    EXPECT_EQ(wrong.code(), ErrorCode::unreachable);
    EXPECT_NE(std::string(wrong.what()).find("exit status 1"), std::string::npos) << wrong.what();
    EXPECT_NE(std::string(wrong.what()).find("nonsense"), std::string::npos) << wrong.what();
    EXPECT_FALSE(std::filesystem::exists(options.socket));

    options.program = "/nonexistent/qemu-storage-daemon";
    const Error missing = co_await failure_of(StorageDaemon::start(options, soon()));
    EXPECT_EQ(missing.code(), ErrorCode::not_found) << missing.what();
    EXPECT_FALSE(std::filesystem::exists(options.socket));

    // Something that neither greets nor ends.
    options.program = "/usr/bin/sleep";
    options.arguments.clear();
    std::ofstream(directory / "mute") << "#!/bin/sh\nexec sleep 60\n";
    std::filesystem::permissions(directory / "mute", std::filesystem::perms::owner_all);
    options.program = directory / "mute";
    const Error mute = co_await failure_of(StorageDaemon::start(options, after_ms(200)));
    EXPECT_EQ(mute.code(), ErrorCode::timeout);
    EXPECT_NE(std::string(mute.what()).find("still runs"), std::string::npos) << mute.what();
    EXPECT_FALSE(std::filesystem::exists(options.socket));
}
TEST(StorageDaemon, SaysWhyItDoesNotStart) {
    async::run(does_not_start());
}

Task<> crashes() {
    const TemporaryDirectory directory;
    const auto daemon = co_await storage_daemon(directory);
    const auto ask = [](std::shared_ptr<Session> session) -> Task<> {
        const Error error = co_await failure_of(session->execute("query-jobs", Json::object(), soon()));
        EXPECT_EQ(error.code(), ErrorCode::unreachable);
        EXPECT_NE(std::string(error.what()).find("signal 11"), std::string::npos) << error.what();
    };
    const auto crash = [](StorageDaemon& victim) -> Task<> {
        (void)::kill(victim.pid(), SIGSEGV);
        (void)::kill(victim.pid(), SIGCONT);
        co_await victim.wait_ended(soon());
    };
    (void)::kill(daemon->pid(), SIGSTOP);
    co_await together(ask(daemon->session()), crash(*daemon));
    EXPECT_FALSE(co_await daemon->stop(soon()));
}
TEST(StorageDaemon, ACrashIsToldToThoseWhoWait) {
    async::run(crashes());
}

Task<> hangs() {
    const TemporaryDirectory directory;
    const auto daemon = co_await storage_daemon(directory);
    // It neither hears `quit` nor heeds SIGTERM; SIGKILL needs no one's consent.
    (void)::kill(daemon->pid(), SIGSTOP);
    EXPECT_FALSE(co_await daemon->stop(after_ms(100)));
    EXPECT_FALSE(runs(daemon->pid()));
}
TEST(StorageDaemon, AHangingOneIsKilled) {
    async::run(hangs());
}

Task<> dropped() {
    const TemporaryDirectory directory;
    auto daemon = co_await storage_daemon(directory);
    const auto session = daemon->session();
    const pid_t pid = daemon->pid();
    daemon.reset();
    co_await session->wait_closed(soon());
    EXPECT_TRUE(co_await session->peer_exited(soon()));
    session->explain_loss_with({});
    EXPECT_FALSE(runs(pid));
}
TEST(StorageDaemon, GoesWithItsObject) {
    async::run(dropped());
}

Task<> limits() {
    const TemporaryDirectory directory;
    StorageDaemonOptions options(directory / "qsd.sock");
    options.max_memory = std::uint64_t{16} << 20;
    options.max_open_files = 100;
    const Error error = co_await failure_of(StorageDaemon::start(options, soon()));
    EXPECT_NE(std::string(error.what()).find("ended with"), std::string::npos) << error.what();

    options.max_memory = std::uint64_t{4} << 30;
    const auto daemon = co_await StorageDaemon::start(options, soon());
    const std::string limits = read_file(fmt::format("/proc/{}/limits", daemon->pid()), 65536);
    EXPECT_NE(limits.find("Max address space         4294967296"), std::string::npos) << limits;
    EXPECT_NE(limits.find("Max open files            100"), std::string::npos) << limits;
    EXPECT_TRUE(co_await daemon->stop(soon()));
}
TEST(StorageDaemon, Limits) {
    async::run(limits());
}

Task<> confined() {
    const TemporaryDirectory directory;
    create_image(directory / "mine.qcow2", "qcow2", "1M");
    create_image(directory / "other.qcow2", "qcow2", "1M");
    (void)::chmod(directory.path().c_str(), 0755);
    (void)::chmod((directory / "mine.qcow2").c_str(), 0666);
    (void)::chmod((directory / "other.qcow2").c_str(), 0666);
    StorageDaemonOptions options(directory / "qsd.sock");
    options.identity = async::Identity{65534, 65534};
    options.files = {{directory / "mine.qcow2", true}};
    const auto daemon = co_await StorageDaemon::start(options, soon());
    EXPECT_EQ(daemon->session()->peer()->uid(), 65534u);
    const auto add = [](std::shared_ptr<Session> session, std::string path) -> Task<Json> {
        Json node;
        node["driver"] = "qcow2";
        node["node-name"] = "n";
        node["file"]["driver"] = "file";
        node["file"]["filename"] = std::move(path);
        co_return co_await session->execute("blockdev-add", std::move(node), soon());
    };
    (void)co_await add(daemon->session(), directory / "mine.qcow2");
    const Error error = co_await failure_of(add(daemon->session(), directory / "other.qcow2"));
    EXPECT_NE(std::string(error.what()).find("Permission denied"), std::string::npos) << error.what();
    EXPECT_TRUE(co_await daemon->stop(soon()));
}
TEST(StorageDaemon, RunsAsAnotherUserWithJustItsFiles) {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root to change the user";
    async::run(confined());
}

}  // namespace
}  // namespace volchain::qmp::storage_daemon_test
