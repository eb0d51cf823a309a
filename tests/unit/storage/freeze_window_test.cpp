// SPDX-License-Identifier: MIT
//
// The window in which a guest is frozen, with a real QEMU and an agent that does as it is told.
#include <algorithm>
#include <filesystem>
#include <map>

#include "base/text.h"
#include "storage/vms/quiesce.h"
#include "storage/vms/vms.h"
#include "support.h"

namespace volchain::storage::freeze_window_test {
namespace {

using Words = std::vector<std::string>;
using std::chrono::milliseconds;

constexpr const char* freeze = "guest-fsfreeze-freeze";
constexpr const char* thaw = "guest-fsfreeze-thaw";
constexpr const char* refusal = R"({"error": {"class": "GenericError", "desc": "a hook said no"}})";

/// The guest's end of the agent's port. It answers as an agent with 3 file systems, and otherwise as it is
/// told.
class FakeAgent {
  public:
    FakeAgent(const async::Executor& executor, const std::string& path)
        : server_(executor, path), tasks_(executor) {
        answers_[freeze] = R"({"return": 3})";
        answers_[thaw] = R"({"return": 3})";
        answers_["guest-get-osinfo"] = R"({"return": {"id": "debian"}})";
        tasks_.spawn(serve(), "the agent");
    }

    /// Another answer than the usual one; none: silence. "guest-sync-delimited" knows only silence.
    void answer(const std::string& command, std::optional<std::string> with) {
        answers_[command] = std::move(with);
    }
    void answer_sync() { answers_.erase("guest-sync-delimited"); }
    /// The freezes and thaws that were heard, in order.
    [[nodiscard]] Words heard() const {
        Words words;
        std::copy_if(heard_.begin(), heard_.end(), std::back_inserter(words),
                     [](const std::string& word) { return word == freeze || word == thaw; });
        return words;
    }
    /// Waits until so many of them were heard.
    Task<> until_heard(std::string command, int count) {
        while (std::count(heard_.begin(), heard_.end(), command) < count)
            co_await changed_.wait(soon(),
                                   fmt::format("{} {}, after {}", count, command, joined(heard_, " ")));
    }
    Task<> stop() { co_await tasks_.stop(); }

  private:
    Task<> serve() {
        while (true) {
            const auto peer = co_await server_.accept();
            while (const auto line = co_await peer->hear()) co_await obey(*peer, *line);
        }
    }
    Task<> obey(qmp::FakePeer& peer, std::string line) {
        line.erase(std::remove(line.begin(), line.end(), '\xff'), line.end());
        const Json command = Json::parse(line);
        const auto name = command.at("execute").get<std::string>();
        heard_.push_back(name);
        changed_.notify();
        const auto known = answers_.find(name);
        if (known != answers_.end() && !known->second) co_return;
        std::string answer;
        if (name == "guest-sync-delimited")
            answer = "\xff" + Json{{"return", command.at("arguments").at("id")}}.dump();
        else if (known != answers_.end())
            answer = *known->second;
        else
            answer = R"({"error": {"class": "CommandNotFound", "desc": "no such command"}})";
        co_await peer.say(answer + "\n");
    }

    qmp::FakeServer server_;
    std::map<std::string, std::optional<std::string>> answers_;
    Words heard_;
    async::Condition changed_;
    async::TaskGroup tasks_;
};

/// An engine with a VM that runs.
class Guest {
  public:
    Guest(const async::Executor& executor, Settings settings)
        : engine(executor, settings), agent(executor, engine.directory() / "agent") {}

    Task<> start(bool with_agent = true) {
        qemu = co_await qmp::Qemu::start(engine.directory(), {});
        (void)co_await qemu->session->execute("cont", Json::object(), soon());
        co_await engine->start();
        VmRequest request("web");
        request.qmp_socket = engine.directory() / "qemu.sock";
        if (with_agent) request.agent_socket = engine.directory() / "agent";
        vm = co_await register_vm(*engine, std::move(request));
    }
    Task<> stop() {
        co_await engine->stop();
        co_await agent.stop();
    }
    [[nodiscard]] std::unique_ptr<FreezeWindow> window() {
        return std::make_unique<FreezeWindow>(*engine, engine->vm(vm));
    }
    [[nodiscard]] bool marked() { return engine->catalog().frozen_since(vm).has_value(); }
    Task<> until_unmarked() {
        const async::Deadline deadline = soon();
        while (marked() && async::Clock::now() < deadline) co_await async::sleep_until(qmp::after_ms(2));
        EXPECT_FALSE(marked());
    }

    TestEngine engine;
    FakeAgent agent;
    std::unique_ptr<qmp::Qemu> qemu;
    Uuid vm;
};

/// Runs a test with a guest.
using Test = Task<> (*)(Guest&);
Task<> with_guest(Test test, Settings settings, bool with_agent) {
    Guest guest(co_await async::asio::this_coro::executor, settings);
    co_await guest.start(with_agent);
    std::exception_ptr failure;
    co_await async::keep_failure(test(guest), failure);
    co_await guest.stop();
    if (failure) std::rethrow_exception(failure);
}
void run_test(Test test, const Settings& settings = quick_settings(), bool with_agent = true) {
    async::run(with_guest(test, settings, with_agent));
}

const auto short_time = milliseconds(500);

Task<> holds(Guest& guest) {
    const auto window = guest.window();
    EXPECT_FALSE(window->frozen());
    co_await window->open(short_time);
    EXPECT_TRUE(window->frozen());
    EXPECT_TRUE(guest.marked()) << "a restarted daemon knows whom to thaw";
    co_await window->close();
    EXPECT_TRUE(window->held());
    EXPECT_FALSE(window->frozen());
    EXPECT_EQ(window->why(), "");
    EXPECT_FALSE(window->flushes_applications());
    EXPECT_FALSE(guest.marked());
    EXPECT_EQ(guest.agent.heard(), (Words{freeze, thaw}));
    EXPECT_TRUE(window->times().has_value());
    if (!window->times()) co_return;
    EXPECT_LE(window->times()->frozen, window->times()->thaw_sent);
    EXPECT_LT(window->times()->thaw_sent, window->times()->thawed);
    co_await window->close();
    EXPECT_EQ(guest.agent.heard().size(), 2u) << "closing twice is closing once";
}
TEST(FreezeWindow, HoldsFromOpenToClose) {
    run_test(holds);
}

Task<> windows(Guest& guest) {
    guest.agent.answer("guest-get-osinfo", R"({"return": {"id": "mswindows"}})");
    const auto window = guest.window();
    co_await window->open(short_time);
    co_await window->close();
    EXPECT_TRUE(window->flushes_applications());
    EXPECT_TRUE(window->held());
}
TEST(FreezeWindow, KnowsAGuestThatFlushesItsApplications) {
    run_test(windows);
}

Task<> old_agent(Guest& guest) {
    guest.agent.answer("guest-get-osinfo", std::string(refusal));
    const auto window = guest.window();
    co_await window->open(short_time);
    EXPECT_TRUE(window->frozen());
    co_await window->close();
    EXPECT_TRUE(window->held());
}
TEST(FreezeWindow, DoesWithoutTheNameOfTheSystem) {
    run_test(old_agent);
}

// --- guests that are not frozen -------------------------------------------------------------------------

Task<> without_agent(Guest& guest) {
    const auto window = guest.window();
    co_await window->open(short_time);
    EXPECT_FALSE(window->frozen());
    EXPECT_EQ(window->why(), "the VM was registered without a guest agent");
    EXPECT_FALSE(guest.marked());
    co_await window->close();
    EXPECT_FALSE(window->held());
}
TEST(FreezeWindow, SaysThatThereIsNoAgent) {
    run_test(without_agent, quick_settings(), false);
}

Task<> paused(Guest& guest) {
    (void)co_await guest.qemu->session->execute("stop", Json::object(), soon());
    while (guest.engine->vm(guest.vm).state() != VmState::paused)
        co_await guest.engine->vm(guest.vm).wait_changed(soon());
    const auto window = guest.window();
    co_await window->open(short_time);
    EXPECT_FALSE(window->frozen());
    EXPECT_EQ(window->why(), "the VM is paused");
    EXPECT_THAT(guest.agent.heard(), IsEmpty());
}
TEST(FreezeWindow, DoesNotAskAPausedGuest) {
    run_test(paused);
}

Task<> silent(Guest& guest) {
    guest.agent.answer("guest-sync-delimited", std::nullopt);
    const auto window = guest.window();
    const auto before = async::Clock::now();
    co_await window->open(std::chrono::seconds(20));
    EXPECT_LT(async::Clock::now() - before, std::chrono::seconds(5))
        << "seconds, not the whole time for a freeze";
    EXPECT_FALSE(window->frozen());
    EXPECT_THAT(window->why(), HasSubstr("agent"));
    EXPECT_FALSE(guest.marked());
    co_await window->close();
    EXPECT_THAT(guest.agent.heard(), IsEmpty()) << "what was not frozen is not thawed";
}
TEST(FreezeWindow, GivesUpOnASilentAgentSoon) {
    run_test(silent);
}

Task<> refused(Guest& guest) {
    guest.agent.answer(freeze, std::string(refusal));
    const auto window = guest.window();
    co_await window->open(short_time);
    EXPECT_FALSE(window->frozen());
    EXPECT_THAT(window->why(), HasSubstr("a hook said no"));
    co_await window->close();
    EXPECT_FALSE(window->held());
    EXPECT_THAT(window->why(), HasSubstr("a hook said no"));
    EXPECT_EQ(guest.agent.heard(), (Words{freeze, thaw})) << "a hook that saw the freeze waits for the thaw";
    EXPECT_FALSE(guest.marked());
}
TEST(FreezeWindow, ThawsAfterARefusedFreeze) {
    run_test(refused);
}

Task<> nothing_to_freeze(Guest& guest) {
    guest.agent.answer(freeze, R"({"return": 0})");
    const auto window = guest.window();
    co_await window->open(short_time);
    EXPECT_FALSE(window->frozen());
    EXPECT_THAT(window->why(), HasSubstr("no file system"));
    co_await window->close();
    EXPECT_EQ(guest.agent.heard(), (Words{freeze, thaw}));
}
TEST(FreezeWindow, ThawsWhereNothingWasFrozen) {
    run_test(nothing_to_freeze);
}

Task<> hangs(Guest& guest) {
    guest.agent.answer(freeze, std::nullopt);
    const auto window = guest.window();
    const auto before = async::Clock::now();
    co_await window->open(short_time);
    EXPECT_LT(async::Clock::now() - before, std::chrono::seconds(5));
    EXPECT_FALSE(window->frozen());
    EXPECT_THAT(window->why(), HasSubstr("freezing failed"));
    EXPECT_TRUE(guest.marked()) << "it may still freeze";
    co_await window->close();
    EXPECT_EQ(guest.agent.heard(), (Words{freeze, thaw}));
    EXPECT_FALSE(guest.marked());
    EXPECT_FALSE(window->held());
}
TEST(FreezeWindow, ThawsAfterAFreezeThatWasNotAnswered) {
    run_test(hangs);
}

// --- guests that thaw otherwise than they are told ------------------------------------------------------

Task<> thawed_by_itself(Guest& guest) {
    guest.agent.answer(thaw, R"({"return": 0})");
    const auto window = guest.window();
    co_await window->open(short_time);
    EXPECT_TRUE(window->frozen());
    co_await window->close();
    EXPECT_FALSE(window->held());
    EXPECT_THAT(window->why(), HasSubstr("thawed by itself"));
    EXPECT_FALSE(guest.marked());
}
TEST(FreezeWindow, DoesNotHoldWhereTheGuestThawedByItself) {
    run_test(thawed_by_itself);
}

Task<> thaw_refused(Guest& guest) {
    guest.agent.answer(thaw, std::string(refusal));
    guest.agent.answer("guest-fsfreeze-status", R"({"return": "thawed"})");
    const auto window = guest.window();
    co_await window->open(short_time);
    co_await window->close();
    EXPECT_FALSE(window->held());
    EXPECT_THAT(window->why(), HasSubstr("a hook said no"));
    EXPECT_FALSE(guest.marked()) << "the agent says that nothing is frozen";
    EXPECT_EQ(guest.agent.heard(), (Words{freeze, thaw}));
}
TEST(FreezeWindow, DoesNotHoldWhereTheThawIsRefused) {
    run_test(thaw_refused);
}

Task<> refused_and_frozen(Guest& guest) {
    {
        const auto window = guest.window();
        co_await window->open(short_time);
        guest.agent.answer(thaw, std::string(refusal));
        guest.agent.answer("guest-fsfreeze-status", R"({"return": "frozen"})");
        co_await window->close();
        EXPECT_FALSE(window->held());
        EXPECT_TRUE(guest.marked());
    }
    co_await guest.agent.until_heard(thaw, 2);
    EXPECT_TRUE(guest.marked());
    guest.agent.answer(thaw, R"({"return": 3})");
    co_await guest.until_unmarked();
}
TEST(FreezeWindow, SendsTheThawAgainWhereItIsRefusedByAFrozenGuest) {
    run_test(refused_and_frozen);
}

Task<> partly_thawed(Guest& guest) {
    for (const auto& [answer, holds] : {std::pair("2", false), std::pair("3", true), std::pair("4", true)}) {
        guest.agent.answer(thaw, fmt::format("{{\"return\": {}}}", answer));
        const auto window = guest.window();
        co_await window->open(short_time);
        co_await window->close();
        EXPECT_EQ(window->held(), holds) << answer << " of 3 file systems thawed";
        if (!holds) {
            EXPECT_THAT(window->why(), HasSubstr("2 of 3 file systems"));
        }
    }
}
TEST(FreezeWindow, HoldsOnlyWhereAllWasStillFrozen) {
    run_test(partly_thawed);
}

Task<> thaw_unanswered(Guest& guest) {
    {
        const auto window = guest.window();
        co_await window->open(short_time);
        guest.agent.answer(thaw, std::nullopt);
        const auto before = async::Clock::now();
        co_await window->close();
        EXPECT_LT(async::Clock::now() - before, std::chrono::seconds(5));
        EXPECT_FALSE(window->held());
        EXPECT_THAT(window->why(), HasSubstr("not known"));
        EXPECT_TRUE(guest.marked());
    }
    co_await guest.agent.until_heard(thaw, 2);
    EXPECT_TRUE(guest.marked());

    // Nobody opens a window while the thaw of an earlier one is on its way: it would end with that thaw.
    const auto next = guest.window();
    co_await next->open(short_time);
    EXPECT_FALSE(next->frozen());
    EXPECT_NE(next->why(), "");
    const Words heard = guest.agent.heard();
    EXPECT_EQ(std::count(heard.begin(), heard.end(), freeze), 1);

    guest.agent.answer(thaw, R"({"return": 3})");
    co_await guest.until_unmarked();
    const auto last = guest.window();
    co_await last->open(short_time);
    EXPECT_TRUE(last->frozen());
    co_await last->close();
    EXPECT_TRUE(last->held());
}
TEST(FreezeWindow, SendsTheThawUntilItIsAnswered) {
    run_test(thaw_unanswered);
}

Task<> dropped(Guest& guest) {
    {
        const auto window = guest.window();
        co_await window->open(short_time);
        EXPECT_TRUE(window->frozen());
    }
    co_await guest.until_unmarked();
    EXPECT_EQ(guest.agent.heard(), (Words{freeze, thaw}));
}
TEST(FreezeWindow, IsNotLeftOpen) {
    run_test(dropped);
}

Task<> limited(Guest& guest) {
    const auto window = guest.window();
    co_await window->open(short_time);
    EXPECT_TRUE(window->frozen());
    co_await guest.until_unmarked();  // whatever the owner of the window waits for
    EXPECT_EQ(guest.agent.heard(), (Words{freeze, thaw}));
    guest.agent.answer(thaw, R"({"return": 0})");
    co_await window->close();
    EXPECT_FALSE(window->held());
    EXPECT_THAT(window->why(), HasSubstr("longer than"));
}
TEST(FreezeWindow, IsClosedByItsLimit) {
    Settings settings = quick_settings();
    settings.freeze_limit = milliseconds(200);
    run_test(limited, settings);
}

// --- ends -----------------------------------------------------------------------------------------------

Task<> qemu_dies(Guest& guest) {
    {
        const auto window = guest.window();
        co_await window->open(short_time);
        EXPECT_TRUE(window->frozen());
        guest.agent.answer(thaw, std::nullopt);
        guest.agent.answer("guest-sync-delimited", std::nullopt);
        guest.qemu.reset();  // SIGKILL
        while (!guest.engine->vm(guest.vm).down()) co_await guest.engine->vm(guest.vm).wait_changed(soon());
        co_await window->close();
        EXPECT_FALSE(window->held());
    }
    co_await guest.until_unmarked();  // a guest that is gone is not frozen
}
TEST(FreezeWindow, EndsWithItsGuest) {
    run_test(qemu_dies);
}

/// A guest that may be frozen, whose agent does not answer to the thaw for now.
Task<> leave_frozen(Guest& guest) {
    const auto window = guest.window();
    co_await window->open(short_time);
    guest.agent.answer(thaw, std::nullopt);
    co_await window->close();
    EXPECT_TRUE(guest.marked());
}

Task<> other_socket(Guest& guest) {
    co_await leave_frozen(guest);
    VmUpdate emptied;
    emptied.agent_socket = "";
    co_await expect_failure(update_vm(*guest.engine, guest.vm, emptied), ErrorCode::busy, "frozen");
    emptied.agent_socket.reset();
    emptied.qmp_socket = "";
    co_await expect_failure(update_vm(*guest.engine, guest.vm, emptied), ErrorCode::busy, "frozen");

    const std::string link = guest.engine.directory() / "agent-2";
    std::filesystem::create_symlink(guest.engine.directory() / "agent", link);
    VmUpdate moved;
    moved.agent_socket = link;
    co_await update_vm(*guest.engine, guest.vm, moved);
    guest.agent.answer(thaw, R"({"return": 3})");
    co_await guest.until_unmarked();
}
TEST(FreezeWindow, IsClosedOverAnotherSocketToo) {
    run_test(other_socket);
}

Task<> stopped(Guest& guest) {
    co_await leave_frozen(guest);
    async::TaskGroup stopping(guest.engine->executor());
    stopping.spawn(guest.engine->stop(), "stopping");
    co_await guest.agent.until_heard(thaw, 2);
    guest.agent.answer(thaw, R"({"return": 3})");
    co_await stopping.drain();
    EXPECT_FALSE(guest.marked()) << "nobody would thaw it until the next start";
}
TEST(FreezeWindow, IsClosedBeforeTheDaemonEnds) {
    run_test(stopped);
}

Task<> restarted(Guest& guest) {
    Changes changes;
    changes.put(Frozen{guest.vm, now()});
    co_await guest.engine->catalog().commit(std::move(changes), Durability::process);
    co_await guest.engine.restart();
    co_await guest.until_unmarked();
    EXPECT_EQ(guest.agent.heard(), (Words{thaw}));
}
TEST(FreezeWindow, IsClosedByARestartedDaemon) {
    run_test(restarted);
}

}  // namespace
}  // namespace volchain::storage::freeze_window_test
