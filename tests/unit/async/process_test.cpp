// SPDX-License-Identifier: MIT
#include "async/process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/landlock.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <filesystem>
#include <fstream>

#include "async/task_group.h"
#include "base/error.h"
#include "support/run_task.h"

namespace volchain::async::process_test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

Command shell(std::string script) {
    std::vector<std::string> argv{"/bin/sh", "-c"};
    argv.push_back(std::move(script));
    return Command(std::move(argv));
}

Task<> expect_no_end(Process& process, bool& waited) {
    try {
        (void)co_await process.wait(after(milliseconds(50)));
        ADD_FAILURE() << "it runs";
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::timeout) << error.what();
    }
    waited = true;
}

/// Two streams become readable in one turn of the loop. Whoever hears of the first closes the second, whose
/// place in Asio's reactor a new process gets, together with the news that was under way to the stream.
Task<> inherited_news() {
    const Executor executor = co_await asio::this_coro::executor;
    std::array<std::array<int, 2>, 2> pipes{};
    std::vector<asio::posix::stream_descriptor> streams;
    for (auto& ends : pipes) {
        EXPECT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
        streams.emplace_back(executor, ends[0]);
    }
    std::optional<Process> process;
    TaskGroup waiting(executor);
    bool waited = false;
    const auto on_news = [&](std::size_t other) {
        return [&, other](const boost::system::error_code&) {
            if (process) return;
            streams[other].close();
            process.emplace(Process::start(executor, shell("exec sleep 60")));
            waiting.spawn(expect_no_end(*process, waited), "waiting for a process");
        };
    };
    for (std::size_t i = 0; i < 2; ++i)
        streams[i].async_wait(asio::posix::stream_descriptor::wait_read, on_news(1 - i));
    for (const auto& ends : pipes) EXPECT_EQ(::write(ends[1], "x", 1), 1);
    while (!process) co_await yield();
    co_await waiting.join(after(seconds(10)));
    EXPECT_TRUE(waited);
    process->signal(SIGTERM);
    const ExitStatus status = co_await process->wait(after(seconds(10)));
    EXPECT_EQ(status.signal, SIGTERM);
    for (const auto& ends : pipes) ::close(ends[1]);
}
TEST(Process, IsNotTakenForEndedByNewsOfAnother) {
    run(inherited_news());
}

Task<> note_end(Process& process, int& ended) {
    const ExitStatus status = co_await process.wait(after(seconds(10)));
    EXPECT_EQ(status.code, 7);
    ++ended;
}

Task<> several_waiters() {
    const Executor executor = co_await asio::this_coro::executor;
    Process process = Process::start(executor, shell("sleep 0.05; exit 7"));
    TaskGroup waiting(executor);
    int ended = 0;
    for (int i = 0; i < 3; ++i) waiting.spawn(note_end(process, ended), "waiting for a process");
    co_await waiting.join(after(seconds(10)));
    EXPECT_EQ(ended, 3);
    co_await note_end(process, ended);
}
TEST(Process, SeveralMayWaitForItsEnd) {
    run(several_waiters());
}

Task<> killed_and_reaped(pid_t& pid) {
    const Executor executor = co_await asio::this_coro::executor;
    Process process = Process::start(executor, shell("exec sleep 60"));
    pid = process.pid();
    bool timed_out = false;
    try {
        (void)co_await process.wait(after(milliseconds(10)));
    } catch (const Error& error) {
        timed_out = error.code() == ErrorCode::timeout;
    }
    EXPECT_TRUE(timed_out);
}
TEST(Process, LeavesNoZombieBehind) {
    for (int round = 0; round < 20; ++round) {
        pid_t pid = 0;
        run(killed_and_reaped(pid));
        EXPECT_EQ(::waitpid(pid, nullptr, WNOHANG), -1) << "it is still our child";
        EXPECT_EQ(errno, ECHILD);
    }
}

Task<> output_and_status() {
    auto result = co_await run_process(shell("echo out; echo err >&2; exit 3"), after(seconds(10)));
    EXPECT_EQ(result.output, "out\n");
    EXPECT_EQ(result.errors, "err\n");
    EXPECT_EQ(result.status.code, 3);
    EXPECT_EQ(result.status.str(), "exit status 3");
    EXPECT_FALSE(result.status.ok());

    result = co_await run_process(shell("kill -9 $$"), after(seconds(10)));
    EXPECT_EQ(result.status.signal, SIGKILL);
    EXPECT_EQ(result.status.str(), "signal 9 (Killed)");
}

TEST(Process, OutputAndStatus) {
    run(output_and_status());
}

Task<> output_is_clipped() {
    auto result =
        co_await run_process(shell("head -c 1000000 /dev/zero; echo end >&2"), after(seconds(10)), 1000);
    EXPECT_EQ(result.output.size(), 1000U);
    EXPECT_EQ(result.errors, "end\n");
    EXPECT_TRUE(result.status.ok());
}

TEST(Process, OutputIsClipped) {
    run(output_is_clipped());
}

Task<> killed_at_the_deadline() {
    const auto start = Clock::now();
    ErrorCode code{};
    try {
        (void)co_await run_process(shell("exec sleep 1000"), after(milliseconds(50)));
    } catch (const Error& error) {
        code = error.code();
    }
    EXPECT_EQ(code, ErrorCode::timeout);
    EXPECT_LT(Clock::now() - start, seconds(10));
}

TEST(Process, KilledAtTheDeadline) {
    run(killed_at_the_deadline());
}

Task<> missing_program() {
    std::string text;
    std::vector<std::string> argv{"/no/such/program"};
    try {
        (void)co_await run_process(Command(std::move(argv)), after(seconds(10)));
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::not_found);
        text = error.what();
    }
    EXPECT_EQ(text, "/no/such/program cannot execute it: No such file or directory");
}

Task<> deaf_to_one_signal() {
    Process process =
        Process::start(co_await asio::this_coro::executor,
                       shell("trap 'trap - TERM' TERM; echo listening; while :; do sleep 0.1; done"));
    std::array<char, 16> buffer{};
    (void)co_await process.output().async_read_some(asio::buffer(buffer), asio::use_awaitable);
    const ExitStatus status = co_await process.terminate(after(seconds(20)));
    EXPECT_EQ(status.signal, SIGTERM) << status.str();
}

TEST(Process, IsToldToEndUntilItDoes) {
    run(deaf_to_one_signal());
}

Task<> deaf_to_all_signals() {
    Process process = Process::start(co_await asio::this_coro::executor,
                                     shell("trap '' TERM; echo listening; exec sleep 60"));
    std::array<char, 16> buffer{};
    (void)co_await process.output().async_read_some(asio::buffer(buffer), asio::use_awaitable);
    try {
        (void)co_await process.terminate(after(milliseconds(100)));
        ADD_FAILURE() << "it ignores SIGTERM";
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::timeout) << error.what();
    }
    EXPECT_FALSE(process.ended());
}

TEST(Process, IsNotWaitedForBeyondTheDeadlineWhenToldToEnd) {
    run(deaf_to_all_signals());
}

TEST(Process, MissingProgram) {
    run(missing_program());
}

Task<> surroundings() {
    auto result = co_await run_process(shell("pwd; env | cut -d= -f1 | sort | tr '\\n' ' '; ls /proc/self/fd "
                                             "| wc -l; umask; ulimit -n; ulimit -c;"
                                             "grep NoNewPrivs /proc/self/status | cut -f2"),
                                       after(seconds(10)));
    // ls itself has the directory open: 0, 1, 2 and that
    EXPECT_EQ(result.output, "/\nLC_ALL PATH PWD 4\n0077\n1024\n0\n1\n");
}

TEST(Process, CleanSurroundings) {
    run(surroundings());
}

Task<> other_identity() {
    Command command = shell("id -u; id -g; id -G");
    command.identity = Identity{65534, 65533};
    auto result = co_await run_process(std::move(command), after(seconds(10)));
    EXPECT_EQ(result.output, "65534\n65533\n65533\n");
}

TEST(Process, OtherIdentity) {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root to change the user of a child";
    run(other_identity());
}

Task<> only_its_files(std::string directory) {
    Command command = shell("cat " + directory + "/read; echo new > " + directory + "/write; cat " +
                            directory + "/other; echo new > " + directory + "/read; true");
    command.files.emplace_back();
    command.files.back().path = directory + "/read";
    command.files.emplace_back();
    command.files.back().path = directory + "/write";
    command.files.back().write = true;
    auto result = co_await run_process(std::move(command), after(seconds(10)));
    EXPECT_EQ(result.output, "readable\n");
    EXPECT_NE(result.errors.find("other: Permission denied"), std::string::npos) << result.errors;
    EXPECT_NE(result.errors.find("cannot create " + directory + "/read"), std::string::npos) << result.errors;
    std::string text;
    std::ifstream(directory + "/write") >> text;
    EXPECT_EQ(text, "new");
}

TEST(Process, LandlockLeavesItJustItsFiles) {
    if (::syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION) < 0)
        GTEST_SKIP() << "this kernel has no Landlock";
    std::string directory = testing::TempDir() + "volchain-process-XXXXXX";
    ASSERT_NE(::mkdtemp(directory.data()), nullptr);
    for (const char* file : {"read", "write", "other"}) std::ofstream(directory + "/" + file) << "readable\n";
    run(only_its_files(directory));
    std::filesystem::remove_all(directory);
}

Task<> destructor_kills(pid_t& pid) {
    const Executor executor = co_await asio::this_coro::executor;
    const Process process = Process::start(executor, shell("exec sleep 1000"));
    pid = process.pid();
    EXPECT_EQ(::kill(pid, 0), 0);
}

TEST(Process, ItsOwnerTakesItAlong) {
    pid_t pid = 0;
    run(destructor_kills(pid));
    EXPECT_EQ(::waitpid(pid, nullptr, WNOHANG), -1);
    EXPECT_EQ(errno, ECHILD);
}

TEST(Process, DiesWithItsParent) {
    // A child starts a grandchild and is killed; the pipe that the grandchild holds tells of its end.
    std::array<int, 2> ends{};
    ASSERT_EQ(::pipe(ends.data()), 0);
    const pid_t child = ::fork();
    if (child == 0) {
        ::close(ends[0]);
        Loop loop;
        Command command = shell("exec sleep 1000");
        command.inherit.push_back(ends[1]);
        const Process process = Process::start(loop.executor(), command);
        (void)::kill(::getpid(), SIGKILL);
        ::_exit(1);
    }
    ::close(ends[1]);
    ASSERT_EQ(::waitpid(child, nullptr, 0), child);
    char byte = 0;
    ::alarm(20);
    EXPECT_EQ(::read(ends[0], &byte, 1), 0);
    ::alarm(0);
    ::close(ends[0]);
}

}  // namespace
}  // namespace volchain::async::process_test
