// SPDX-License-Identifier: MIT
#include "qmp/storage_daemon.h"

#include <unistd.h>

#include <algorithm>
#include <csignal>

#include "base/log.h"
#include "base/text.h"
#include "qmp/output_tail.h"
#include "qmp/program.h"

namespace volchain::qmp {
namespace {

/// Between the end of the connection and that of the process, which closes its images in the meantime.
constexpr auto time_to_end = std::chrono::seconds(2);
/// SIGTERM is an orderly end too (it closes the images); what does not follow it is stuck in a system call.
constexpr auto time_to_terminate = std::chrono::seconds(5);
constexpr auto time_to_hear_a_signal = std::chrono::seconds(1);
constexpr auto time_to_be_killed = std::chrono::seconds(5);

constexpr std::size_t shown_error_words = 180;

/// Removes the file of a socket, unless it is told to leave it.
class SocketPath {
  public:
    SocketPath() = default;
    SocketPath(const SocketPath&) = delete;
    SocketPath& operator=(const SocketPath&) = delete;
    ~SocketPath() {
        if (!path_.empty()) (void)::unlink(path_.c_str());
    }
    void set(std::string path) { path_ = std::move(path); }

  private:
    std::string path_;
};

/// Its monitor can have no other client.
Error started_badly(const std::exception_ptr& failure) {
    try {
        std::rethrow_exception(failure);
    } catch (const ConnectError& error) {
        if (error.reason() == ConnectError::Reason::held_by_another_client)
            return {ErrorCode::timeout, std::string("timed out waiting for its greeting")};
        return {error.code(), std::string(error.what())};
    } catch (...) {
        return to_error(failure);
    }
}

/// One that nobody but us has, and one that listens, if the descriptor is not -1.
void add_monitors(async::Command& command, int connected, int listening) {
    const auto add = [&command](std::string_view id, const std::string& chardev, int fd) {
        command.argv.emplace_back("--chardev");
        command.argv.push_back(fmt::format("socket,id={},fd={},{}", id, fd, chardev));
        command.argv.emplace_back("--monitor");
        command.argv.push_back(fmt::format("chardev={}", id));
        command.inherit.push_back(fd);
    };
    add("own", "server=off", connected);
    if (listening >= 0) add("path", "server=on,wait=off", listening);
}

async::Command command_for(const StorageDaemonOptions& options, int connected, int listening) {
    const std::string program =
        options.program.empty() ? find_program("qemu-storage-daemon") : options.program;
    async::Command command({program});
    const bool forks = options.detached && !options.launch;
    if (forks) command.argv.emplace_back("--daemonize");
    command.argv.insert(command.argv.end(), options.arguments.begin(), options.arguments.end());
    command.identity = options.identity;
    command.files = options.files;
    command.inherit = options.inherit;
    add_monitors(command, connected, listening);
    command.max_memory = options.max_memory;
    command.max_open_files = options.max_open_files;
    command.die_with_parent = !options.detached;
    return command;
}

}  // namespace

/// Shared with those who want to know how the process ended.
struct StorageDaemon::Child {
    explicit Child(async::Process started)
        : process(std::move(started)),
          output(OutputTail::read(std::move(process.output()))),
          errors(OutputTail::read(std::move(process.errors()))) {}
    Child(const Child&) = delete;
    Child& operator=(const Child&) = delete;
    ~Child() {
        output->close();
        errors->close();
    }

    async::Process process;
    std::shared_ptr<OutputTail> output;
    std::shared_ptr<OutputTail> errors;
};

// --- starting ----------------------------------------------------------------------------------------------

async::Task<std::shared_ptr<StorageDaemon>> StorageDaemon::start(StorageDaemonOptions options,
                                                                 async::Deadline deadline) {
    const async::Executor executor = co_await async::asio::this_coro::executor;
    const bool keeps_socket = options.detached || !options.ephemeral;
    auto [ours, theirs] = connected_pair();
    UniqueFd listening;
    SocketPath socket_path;
    if (keeps_socket) {
        listening = listen_unix(options.socket, 0600);
        socket_path.set(options.socket);
    }
    const bool launched = static_cast<bool>(options.launch);
    const async::Command command = command_for(options, launched ? STDIN_FILENO : theirs.get(),
                                               launched ? STDOUT_FILENO : listening.get());
    std::shared_ptr<Child> child;
    if (launched) {
        StorageDaemonLaunch launch(command.argv);
        launch.input = theirs.get();
        launch.output = listening.get();
        co_await options.launch(std::move(launch));
    } else if (options.detached) {
        co_await run_detached(command, deadline);
    } else {
        child = std::make_shared<Child>(async::Process::start(executor, command));
    }
    // With this one, the connection would stay open when the process ends.
    theirs.reset();
    listening.reset();

    std::shared_ptr<Session> session;
    std::exception_ptr failure;
    try {
        session = co_await Session::adopt(std::move(ours), options.socket, deadline);
    } catch (...) {
        failure = std::current_exception();
    }
    if (failure) {
        std::string what = "starting a storage daemon";
        if (child) {
            const std::string words = co_await last_words(child);
            what += ", " + words;
        }
        throw started_badly(failure).during(what);
    }
    socket_path.set({});
    if (child) session->explain_loss_with([child] { return last_words(child); });
    co_return std::shared_ptr<StorageDaemon>(new StorageDaemon(std::move(session), std::move(child)));
}

/// The program forks, and its first process ends when the second one is up.
async::Task<> StorageDaemon::run_detached(async::Command command, async::Deadline deadline) {
    const async::RunResult result = co_await async::run_process(std::move(command), deadline);
    if (!result.status.ok())
        throw Error(ErrorCode::qemu_failed, "the storage daemon did not start, {}: {}", result.status.str(),
                    quote(result.errors));
}

async::Task<std::shared_ptr<StorageDaemon>> StorageDaemon::attach(std::string socket,
                                                                  async::Deadline deadline) {
    std::shared_ptr<Session> session = co_await Session::connect(std::move(socket), deadline);
    co_return std::shared_ptr<StorageDaemon>(new StorageDaemon(std::move(session), nullptr));
}

// --- ending ------------------------------------------------------------------------------------------------

StorageDaemon::~StorageDaemon() {
    if (child_) child_->process.signal(SIGKILL);
}

pid_t StorageDaemon::pid() const noexcept {
    if (child_) return child_->process.pid();
    return session_->peer() ? session_->peer()->pid() : 0;
}

void StorageDaemon::signal(int number) noexcept {
    if (child_)
        child_->process.signal(number);
    else if (session_->peer())
        session_->peer()->signal(number);
}

/// How the process ended, or that it did not, for the errors of those who wanted something of it.
async::Task<std::string> StorageDaemon::last_words(std::shared_ptr<Child> child) {
    const async::Deadline deadline = async::after(time_to_end);
    std::string end = "which still runs";
    try {
        const async::ExitStatus status = co_await child->process.wait(deadline);
        end = fmt::format("which ended with {}", status.str());
    } catch (const Error& error) {
        if (error.code() != ErrorCode::timeout) throw;
    }
    if (child->process.ended()) co_await child->errors->wait_end(deadline);
    const std::string words = child->errors->last(shown_error_words);
    if (!words.empty()) end += "; its last words: " + quote(words);
    co_return fmt::format("process {}, {}", child->process.pid(), end);
}

async::Task<bool> StorageDaemon::ended_by(async::Deadline deadline) {
    if (!child_) co_return co_await session_->peer_exited(deadline);
    try {
        (void)co_await child_->process.wait(deadline);
    } catch (const Error& error) {
        if (error.code() != ErrorCode::timeout) throw;
    }
    co_return child_->process.ended();
}

async::Task<> StorageDaemon::wait_ended(async::Deadline deadline) {
    const bool ended = co_await ended_by(deadline);
    if (!ended) throw Error(ErrorCode::timeout, "timed out waiting for the end of storage daemon {}", pid());
}

async::Task<bool> StorageDaemon::stop(async::Deadline deadline) {
    try {
        (void)co_await session_->execute("quit", Json::object(), deadline);
    } catch (const Error& error) {
        if (error.code() == ErrorCode::cancelled) throw;
        log().debug("ending storage daemon {}: {}", pid(), error.what());
    }
    bool ended = co_await ended_by(deadline);
    if (!ended) {
        log().warning("storage daemon {} does not end when told to: sending it SIGTERM", pid());
        const async::Deadline last = async::after(time_to_terminate);
        // More than once: see async::Process::terminate().
        while (!ended && async::Clock::now() < last) {
            signal(SIGTERM);
            ended = co_await ended_by(std::min(last, async::after(time_to_hear_a_signal)));
        }
    }
    bool in_order = ended;
    if (!ended) {
        log().warning("storage daemon {} does not end at SIGTERM: killing it", pid());
        signal(SIGKILL);
        (void)co_await ended_by(async::after(time_to_be_killed));
        in_order = false;
    }
    co_await session_->close();
    if (child_ && child_->process.ended()) {
        const async::ExitStatus status = co_await child_->process.wait(async::after(time_to_end));
        in_order = in_order && status.ok();
    }
    co_return in_order;
}

}  // namespace volchain::qmp
