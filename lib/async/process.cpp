// SPDX-License-Identifier: MIT
#include "async/process.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/close_range.h>
#include <linux/landlock.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/buffer.hpp>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <thread>
#include <utility>

#include "async/deadline.h"
#include "async/task_group.h"
#include "base/error.h"
#include "base/log.h"
#include "base/text.h"

namespace volchain::async {
namespace {

// --- between fork and exec: only async-signal-safe calls, nothing allocated
// -----------------------------------------

/// Where the child failed before exec, told to the parent over the status pipe.
struct StartFailure {
    int error_number;
    char activity[32];
};

[[noreturn]] void give_up(int status_pipe, const char* activity) {
    StartFailure failure{errno, {}};
    (void)std::strncpy(failure.activity, activity, sizeof failure.activity - 1);
    (void)!::write(status_pipe, &failure, sizeof failure);
    ::_exit(127);
}

void limit(int status_pipe, __rlimit_resource resource, std::uint64_t value) {
    const rlimit both{value, value};
    if (::setrlimit(resource, &both) < 0) give_up(status_pipe, "set resource limits");
}

struct ChildPlan {
    const Command* command;
    char* const* argv;
    const int* inherit;
    std::size_t inherit_count;
    int landlock;
    int null_fd;
    int output;
    int errors;
    int status_pipe;
    pid_t parent;
    std::uint64_t max_open_files;
};

[[noreturn]] void become_child(const ChildPlan& plan) {
    const Command& command = *plan.command;
    // The sources are above 2 (above_stderr), so no dup2 overwrites the next one's.
    if (::dup2(plan.null_fd, 0) < 0 || ::dup2(plan.output, 1) < 0 || ::dup2(plan.errors, 2) < 0)
        give_up(plan.status_pipe, "set up its streams");
    // Also what others of this process, or who started it, opened without O_CLOEXEC.
    if (::close_range(3, ~0U, CLOSE_RANGE_CLOEXEC) < 0) give_up(plan.status_pipe, "close its descriptors");
    for (std::size_t i = 0; i < plan.inherit_count; ++i)
        if (::fcntl(plan.inherit[i], F_SETFD, 0) < 0) give_up(plan.status_pipe, "inherit a descriptor");

    for (int number = 1; number < NSIG; ++number) (void)::signal(number, SIG_DFL);
    sigset_t none;
    (void)sigemptyset(&none);
    (void)::sigprocmask(SIG_SETMASK, &none, nullptr);
    (void)::umask(077);
    if (::chdir("/") < 0) give_up(plan.status_pipe, "change to /");

    limit(plan.status_pipe, RLIMIT_CORE, 0);
    limit(plan.status_pipe, RLIMIT_NOFILE, plan.max_open_files);
    if (command.max_memory != 0) limit(plan.status_pipe, RLIMIT_AS, command.max_memory);
    if (command.identity) {
        if (::setgroups(0, nullptr) < 0 ||
            ::setresgid(command.identity->gid, command.identity->gid, command.identity->gid) < 0 ||
            ::setresuid(command.identity->uid, command.identity->uid, command.identity->uid) < 0)
            give_up(plan.status_pipe, "change its user");
    }
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) give_up(plan.status_pipe, "set no_new_privs");
    if (plan.landlock >= 0 && ::syscall(SYS_landlock_restrict_self, plan.landlock, 0) < 0)
        give_up(plan.status_pipe, "restrict itself to its files");
    if (command.die_with_parent) {
        if (::prctl(PR_SET_PDEATHSIG, SIGTERM) < 0) give_up(plan.status_pipe, "tie itself to its parent");
        if (::getppid() != plan.parent) ::_exit(127);  // the parent ended before the call above
    }

    static char path[] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    static char locale[] = "LC_ALL=C.UTF-8";
    char* const environment[] = {path, locale, nullptr};
    (void)::execve(plan.argv[0], plan.argv, environment);
    give_up(plan.status_pipe, "execute it");
}

// --- in the parent
// ---------------------------------------------------------------------------------------------------

/// Out of the way of the child's dup2() to 0, 1 and 2.
UniqueFd above_stderr(UniqueFd fd) {
    if (fd.get() > STDERR_FILENO) return fd;
    UniqueFd moved(::fcntl(fd.get(), F_DUPFD_CLOEXEC, STDERR_FILENO + 1));
    if (!moved) throw system_error(errno, "cannot duplicate a descriptor");
    return moved;
}

std::pair<UniqueFd, UniqueFd> make_pipe() {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) < 0) throw system_error(errno, "cannot make a pipe");
    return {above_stderr(UniqueFd(ends[0])), above_stderr(UniqueFd(ends[1]))};
}

UniqueFd open_null() {
    UniqueFd fd(::open("/dev/null", O_RDWR | O_CLOEXEC));
    if (!fd) throw system_error(errno, "cannot open /dev/null");
    return above_stderr(std::move(fd));
}

/// What was asked for, or what this process itself is allowed where that is less.
std::uint64_t open_files_limit(std::uint64_t wanted) {
    rlimit current{};
    if (::getrlimit(RLIMIT_NOFILE, &current) < 0)
        throw system_error(errno, "cannot read the limit of open files");
    return std::min<std::uint64_t>(wanted, current.rlim_max);
}

constexpr std::uint64_t read_rights =
    LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR;
constexpr std::uint64_t all_rights =
    (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1;  // those of Landlock's first version
constexpr std::uint64_t file_rights = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE;

void allow(int ruleset, const std::string& path, std::uint64_t rights, bool must_exist) {
    const UniqueFd fd(::open(path.c_str(), O_PATH | O_CLOEXEC));
    if (!fd) {
        if (!must_exist) return;
        throw system_error(errno, "cannot open " + quote(path));
    }
    landlock_path_beneath_attr rule{};
    rule.allowed_access = rights;
    rule.parent_fd = fd.get();
    if (::syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0)
        throw system_error(errno, "cannot make a Landlock rule for " + quote(path));
}

UniqueFd landlock_ruleset(const std::vector<Command::Access>& files) {
    if (files.empty()) return {};
    landlock_ruleset_attr attributes{};
    attributes.handled_access_fs = all_rights;
    UniqueFd ruleset(
        static_cast<int>(::syscall(SYS_landlock_create_ruleset, &attributes, sizeof attributes, 0)));
    if (!ruleset) {
        // A kernel without Landlock, or with it switched off, is one thing; who takes it away should know what it costs.
        static bool told = false;
        if (errno != ENOSYS && errno != EOPNOTSUPP && !std::exchange(told, true))
            log().warning("{}: helpers are not held to their files",
                          system_error(errno, "Landlock is refused").what());
        return {};
    }
    for (const char* system : {"/usr", "/lib", "/lib64", "/bin", "/etc", "/proc", "/sys"})
        allow(ruleset.get(), system, read_rights, false);
    for (const char* device : {"/dev/null", "/dev/zero", "/dev/urandom", "/dev/random"})
        allow(ruleset.get(), device, file_rights, false);
    for (const auto& [path, write] : files)
        allow(ruleset.get(), path, write ? file_rights : LANDLOCK_ACCESS_FS_READ_FILE, true);
    return ruleset;
}

}  // namespace

namespace {
constexpr auto time_to_be_killed = std::chrono::milliseconds(200);
constexpr auto time_to_hear_a_signal = std::chrono::seconds(1);
}  // namespace

std::string ExitStatus::str() const {
    return signal != 0 ? fmt::format("signal {} ({})", signal, ::strsignal(signal))
                       : fmt::format("exit status {}", code);
}

Process Process::start(const Executor& executor, const Command& command) {
    const std::string& program = command.argv.at(0);
    std::vector<char*> argv;
    argv.reserve(command.argv.size() + 1);
    for (const std::string& argument : command.argv) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);

    auto [status_read, status_write] = make_pipe();
    auto [output_read, output_write] = make_pipe();
    auto [errors_read, errors_write] = make_pipe();
    const UniqueFd null_fd = open_null();
    const UniqueFd landlock = landlock_ruleset(command.files);

    const ChildPlan plan{&command,
                         argv.data(),
                         command.inherit.data(),
                         command.inherit.size(),
                         landlock.get(),
                         null_fd.get(),
                         output_write.get(),
                         errors_write.get(),
                         status_write.get(),
                         ::getpid(),
                         open_files_limit(command.max_open_files)};
    const pid_t pid = ::fork();
    if (pid < 0) throw system_error(errno, "cannot start " + program);
    if (pid == 0) become_child(plan);

    UniqueFd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    const int pidfd_error = errno;
    status_write.reset();
    StartFailure failure{};
    ssize_t got = 0;
    while ((got = ::read(status_read.get(), &failure, sizeof failure)) < 0 && errno == EINTR) {
    }
    if (got != 0 || !pidfd) {
        (void)::kill(pid, SIGKILL);
        while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
        }
        if (!pidfd) throw system_error(pidfd_error, "cannot watch " + program);
        throw system_error(failure.error_number, fmt::format("{} cannot {}", program, failure.activity));
    }
    return {executor, pid, std::move(pidfd), std::move(output_read), std::move(errors_read)};
}

Process::Process(const Executor& executor, pid_t pid, UniqueFd pidfd, UniqueFd output, UniqueFd errors)
    : pid_(pid),
      pidfd_(executor, pidfd.release()),
      output_(executor, output.release()),
      errors_(executor, errors.release()) {}

Process::~Process() {
    if (!pidfd_.is_open()) return;  // moved from
    signal(SIGKILL);
    try {
        reap_killed();
    } catch (const Error& error) {
        log().error("{}", error.what());
    }
}

/// At once, nearly always. One that hangs in the kernel (a dead NFS server) is not waited for by the event loop.
void Process::reap_killed() {
    pollfd pidfd{pidfd_.native_handle(), POLLIN, 0};
    if (!ended()) (void)::poll(&pidfd, 1, static_cast<int>(time_to_be_killed.count()));
    reap(WNOHANG);
    if (ended()) return;
    log().warning("process {} does not end though it was killed; it hangs in the kernel", pid_);
    std::thread([pid = pid_] {
        siginfo_t ignored{};
        while (::waitid(P_PID, static_cast<id_t>(pid), &ignored, WEXITED) < 0 && errno == EINTR) {
        }
    }).detach();
}

void Process::signal(int number) noexcept {
    if (!ended()) (void)::syscall(SYS_pidfd_send_signal, pidfd_.native_handle(), number, nullptr, 0);
}

void Process::reap(int flags) {
    if (ended()) return;  // another who waits was faster
    siginfo_t info{};
    int result = 0;
    // Not by the pidfd: Asio has made it non-blocking, and waitid(2) does as it says.
    while ((result = ::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | flags)) < 0 &&
           errno == EINTR) {
    }
    if (result < 0) throw system_error(errno, fmt::format("cannot wait for process {}", pid_));
    if (info.si_pid == 0) return;
    if (info.si_code == CLD_EXITED)
        status_ = ExitStatus{info.si_status, 0};
    else
        status_ = ExitStatus{0, info.si_status};
}

Task<ExitStatus> Process::wait(Deadline deadline) {
    reap(WNOHANG);
    // In a loop: Asio may say "readable" of what is not, where the descriptor before it in its place was.
    while (!ended()) {
        auto readable = pidfd_.async_wait(asio::posix::stream_descriptor::wait_read, asio::use_awaitable);
        co_await with_deadline(std::move(readable), deadline, fmt::format("the end of process {}", pid_));
        reap(WNOHANG);
    }
    co_return *status_;
}

Task<ExitStatus> Process::terminate(Deadline deadline) {
    std::optional<ExitStatus> status;
    while (!status) {
        signal(SIGTERM);
        const Deadline patience = std::min(deadline, after(time_to_hear_a_signal));
        status = co_await first_of(wait(no_deadline), sleep_until(patience));
        if (!status && patience == deadline)
            throw Error(ErrorCode::timeout, "timed out waiting for process {} to end at SIGTERM", pid_);
    }
    co_return *status;
}

namespace {

Task<> drain(asio::posix::stream_descriptor& stream, std::string& kept, std::size_t limit) {
    std::array<char, 16384> buffer{};
    while (true) {
        const auto [failure, got] =
            co_await stream.async_read_some(asio::buffer(buffer), asio::as_tuple(asio::use_awaitable));
        if (failure) co_return;  // end of file
        kept.append(buffer.data(), std::min(got, limit - std::min(limit, kept.size())));
    }
}

}  // namespace

Task<RunResult> run_process(Command command, Deadline deadline, std::size_t max_output) {
    const Executor executor = co_await asio::this_coro::executor;
    Process process = Process::start(executor, command);
    RunResult result;
    TaskGroup readers(executor);
    readers.spawn(drain(process.output(), result.output, max_output), "reading output");
    readers.spawn(drain(process.errors(), result.errors, max_output), "reading errors");
    std::exception_ptr failure;
    try {
        result.status = co_await process.wait(deadline);
    } catch (...) {
        failure = std::current_exception();
    }
    if (failure) {
        co_await ignore_cancellation();
        process.signal(SIGKILL);
        co_await readers.stop();
        throw to_error(failure).during(fmt::format("running {}", command.argv[0]));
    }
    // A grandchild could hold the pipes open for ever.
    try {
        co_await readers.join(after(std::chrono::seconds(5)));
    } catch (...) {
        failure = std::current_exception();
    }
    if (failure) {
        co_await ignore_cancellation();
        co_await readers.stop();
    }
    co_return result;
}

}  // namespace volchain::async
