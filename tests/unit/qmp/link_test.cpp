// SPDX-License-Identifier: MIT
#include "qmp/link.h"

#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <map>

#include "base/text.h"
#include "support.h"

namespace volchain::qmp::link_test {
namespace {

/// Notes all it is told, and wakes whoever waits for it.
class Owner final : public LinkOwner {
  public:
    Task<> on_connected(std::shared_ptr<Session> session) override {
        if (refuse) throw Error(ErrorCode::qemu_failed, std::string("a test does not want it"));
        (void)co_await session->execute("query-version", Json::object(), soon());
        note("connected");
    }
    void on_event(const Event& event) override { note(event.name); }
    void on_no_connection(LinkState state, const std::string& reason) override {
        EXPECT_FALSE(reason.empty());
        ++attempts[state];
        changed.notify();
        if (refuse) throw Error(ErrorCode::internal, std::string("a test"));
    }
    void on_lost(const LinkLoss& loss) override {
        note(fmt::format("lost{}{}", loss.peer_exited ? " exited" : "",
                         loss.shutdown_reason ? " " + *loss.shutdown_reason : ""));
    }

    /// Waits until that was noted, and takes it and all before it away.
    Task<> until(std::string what) {
        while (std::find(notes.begin(), notes.end(), what) == notes.end())
            co_await changed.wait(soon(), fmt::format("'{}' after '{}'", what, joined(notes, "', '")));
        notes.erase(notes.begin(), std::find(notes.begin(), notes.end(), what) + 1);
    }

    /// Waits until an attempt to connect has failed with that state.
    Task<> until_failed(LinkState state) {
        while (attempts[state] == 0) co_await changed.wait(soon(), fmt::format("state {}", word(state)));
    }

    bool refuse = false;
    Words notes;
    std::map<LinkState, int> attempts;
    async::Condition changed;

  private:
    void note(std::string what) {
        notes.push_back(std::move(what));
        changed.notify();
    }
};

Words monitor_at(const std::string& path) {
    return {"-qmp", "unix:" + path + ",server=on,wait=off"};
}

/// Long pauses: what connects before they end was told by the file that appeared, or by poke().
Link::Pace lazy() {
    Link::Pace pace;
    pace.first_pause = std::chrono::seconds(60);
    pace.last_pause = std::chrono::seconds(60);
    return pace;
}

Task<> comes_and_goes() {
    const TemporaryDirectory directory;
    const async::Executor executor = co_await async::asio::this_coro::executor;
    const std::string path = directory / "qmp";
    Owner owner;
    Link link(executor, path, owner);
    EXPECT_EQ(link.state(), LinkState::nobody_listens);
    link.start();
    for (int i = 0; i < 2; ++i) {
        const auto qemu = Qemu::start_bare(executor, monitor_at(path));
        co_await owner.until("connected");
        EXPECT_EQ(link.state(), LinkState::connected);
        // A copy: the link lets go of its own while we wait. NOLINTNEXTLINE(performance-unnecessary-copy-initialization)
        const std::shared_ptr<Session> session = link.session();
        EXPECT_NE(session, nullptr);
        if (!session) break;
        EXPECT_EQ(session->peer()->pid(), qemu->process.pid());
        (void)co_await session->execute("cont", Json::object(), soon());
        co_await owner.until("RESUME");
        if (i == 0) {
            (void)co_await session->execute("quit", Json::object(), soon());
            co_await owner.until("lost exited host-qmp-quit");
        } else {
            qemu->process.signal(SIGKILL);
            co_await owner.until("lost exited");
        }
        EXPECT_EQ(link.session(), nullptr);
        EXPECT_EQ(link.state(), LinkState::nobody_listens);
        (void)co_await qemu->process.wait(soon());
        (void)::unlink(path.c_str());
    }
    co_await link.stop();
}
TEST(Link, FollowsAQemuThatComesAndGoes) {
    async::run(comes_and_goes());
}

/// Even where the directory of the socket appears only with the QEMU.
Task<> found_by_its_file() {
    const TemporaryDirectory directory;
    const async::Executor executor = co_await async::asio::this_coro::executor;
    const std::string path = directory / "vm/run/qmp";
    Owner owner;
    Link::Pace pace = lazy();
    pace.first_pause =
        std::chrono::seconds(1);  // between bind() and listen() it is there, but nobody listens
    Link link(executor, path, owner, pace);
    link.start();
    co_await owner.until_failed(LinkState::nobody_listens);
    EXPECT_EQ(link.state(), LinkState::nobody_listens);
    std::filesystem::create_directories(directory / "vm/run");
    const auto qemu = Qemu::start_bare(executor, monitor_at(path));
    co_await owner.until("connected");
    co_await link.stop();
    EXPECT_EQ(owner.notes, Words()) << "told of a loss that was its own doing";
}
TEST(Link, FindsAQemuByItsSocket) {
    async::run(found_by_its_file());
}

Task<> poked() {
    const TemporaryDirectory directory;
    const async::Executor executor = co_await async::asio::this_coro::executor;
    const std::string path = directory / "qmp";
    const auto qemu = Qemu::start_bare(executor, monitor_at(path));
    std::shared_ptr<Session> holder;
    for (const async::Deadline deadline = soon(); !holder && async::Clock::now() < deadline;) {
        co_await async::sleep_until(after_ms(10));
        try {
            holder = co_await Session::connect(path, soon());
        } catch (const ConnectError&) {
            continue;
        }
    }
    EXPECT_NE(holder, nullptr);
    Owner owner;
    Link::Pace pace = lazy();
    pace.greeting = std::chrono::milliseconds(100);
    Link link(executor, path, owner, pace);
    link.start();
    co_await owner.until_failed(LinkState::held_by_another_client);
    EXPECT_EQ(link.state(), LinkState::held_by_another_client);
    EXPECT_NE(link.reason().find("another client"), std::string::npos) << link.reason();
    holder.reset();
    link.poke();
    co_await owner.until("connected");
    co_await link.stop();
    co_await link.stop();
}
TEST(Link, TriesAgainWhenPoked) {
    async::run(poked());
}

Task<> unwanted() {
    const TemporaryDirectory directory;
    const async::Executor executor = co_await async::asio::this_coro::executor;
    const std::string path = directory / "qmp";
    Owner owner;
    owner.refuse = true;
    Link link(executor, path, owner);
    link.start();
    const auto qemu = Qemu::start_bare(executor, monitor_at(path));
    co_await owner.until("lost");
    co_await owner.until("lost");
    owner.refuse = false;
    co_await owner.until("connected");
    co_await link.stop();
}
TEST(Link, OutlastsAnOwnerThatFails) {
    async::run(unwanted());
}

Task<> greet_and_stay(FakeServer& server, std::unique_ptr<FakePeer>& peer) {
    peer = co_await server.accept();
    co_await peer->greet();
    (void)co_await peer->hear_command("query-version");
}

/// Shutdown comes while the owner is still busy with a session that does not answer.
Task<> stopped_in_the_middle() {
    const TemporaryDirectory directory;
    const async::Executor executor = co_await async::asio::this_coro::executor;
    FakeServer server(executor, directory / "qmp");
    Owner owner;
    Link link(executor, directory / "qmp", owner);
    link.start();
    std::unique_ptr<FakePeer> peer;
    co_await greet_and_stay(server, peer);
    co_await link.stop();
    EXPECT_EQ(co_await peer->hear(), std::nullopt);
    EXPECT_EQ(owner.notes, Words());
}
TEST(Link, StopsInTheMiddle) {
    async::run(stopped_in_the_middle());
}

Task<> foreign_socket() {
    const TemporaryDirectory directory;
    const async::Executor executor = co_await async::asio::this_coro::executor;
    FakeServer server(executor, directory / "qmp");
    Owner owner;
    Link link(executor, directory / "qmp", owner, lazy());
    link.start();
    {
        const auto peer = co_await server.accept();
        co_await peer->say("220 mail.example ESMTP\r\n");
        co_await owner.until_failed(LinkState::lost);
        EXPECT_EQ(link.state(), LinkState::lost);
        EXPECT_NE(link.reason().find("not JSON"), std::string::npos) << link.reason();
    }
    co_await link.stop();
}
TEST(Link, SaysWhatIsWrong) {
    async::run(foreign_socket());
}

}  // namespace
}  // namespace volchain::qmp::link_test
