// SPDX-License-Identifier: MIT
//
// Process: a child process with limits. It never gets a shell, inherits no descriptor but those it is given,
// and runs with no_new_privs, a clean environment and signal mask, and the identity, resource limits and file
// access (Landlock) that its Command names. Its end is awaited by pidfd, never guessed from a pid. The object
// owns the process: when it goes, the process is killed.
#pragma once

#include <sys/types.h>

#include <boost/asio/posix/stream_descriptor.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "async/task.h"
#include "base/unique_fd.h"

namespace volchain::async {

/// The user and group that a child runs as; no supplementary groups.
struct Identity {
    uid_t uid = 0;
    gid_t gid = 0;
    friend bool operator==(const Identity&, const Identity&) = default;
};

/// What a child process is to be. A class with a constructor, so that it may be handed to coroutines.
struct Command {
    explicit Command(std::vector<std::string> arguments) : argv(std::move(arguments)) {}

    /// argv[0] is an absolute path: nothing is looked up in PATH.
    std::vector<std::string> argv;
    /// Where set and different from ours: setgroups(0), setresgid, setresuid before exec. Needs root.
    std::optional<Identity> identity;
    /// Descriptors that the child inherits, under the same numbers. Borrowed.
    std::vector<int> inherit;
    /// Where not empty, Landlock lets the child read the system (/usr, /lib, /etc, /proc, /dev) and touch
    /// nothing else but these. Silently without effect on a kernel that lacks Landlock; where it is there and refused
    /// (by a seccomp filter), with a warning.
    struct Access {
        std::string path;
        bool write = false;
    };
    std::vector<Access> files;
    std::uint64_t max_memory = 0;  ///< RLIMIT_AS in bytes; 0: unlimited
    std::uint64_t max_open_files = 1024;
    /// SIGTERM to the child when this process ends in whatever way.
    bool die_with_parent = true;
};

/// How a process ended.
struct ExitStatus {
    int code = 0;    ///< exit status where it ended by itself
    int signal = 0;  ///< the signal where one killed it
    [[nodiscard]] bool ok() const noexcept { return code == 0 && signal == 0; }
    /// "exit status 1" or "signal 9 (Killed)".
    [[nodiscard]] std::string str() const;
};

class Process {
  public:
    /// Starts the child; returns when its exec has succeeded. Error NotFound where the program is not there.
    [[nodiscard]] static Process start(const Executor& executor, const Command& command);

    Process(Process&&) = default;
    Process& operator=(Process&&) = delete;
    ~Process();

    [[nodiscard]] pid_t pid() const noexcept { return pid_; }
    /// Whether the process has ended and been waited for.
    [[nodiscard]] bool ended() const noexcept { return status_.has_value(); }

    /// Returns when the process has ended; Timeout at the deadline, with the process still there.
    Task<ExitStatus> wait(Deadline deadline);
    void signal(int number) noexcept;
    /// Sends it SIGTERM and waits for its end; Timeout at the deadline. It is told more than once: a qemu-storage-daemon
    /// (7.2) sleeps on after a SIGTERM that came between its last look for one and its going to sleep.
    Task<ExitStatus> terminate(Deadline deadline);

    /// What the child wrote to stdout (read end) and stderr.
    [[nodiscard]] asio::posix::stream_descriptor& output() noexcept { return output_; }
    [[nodiscard]] asio::posix::stream_descriptor& errors() noexcept { return errors_; }

  private:
    Process(const Executor& executor, pid_t pid, UniqueFd pidfd, UniqueFd output, UniqueFd errors);
    void reap(int flags);
    void reap_killed();

    pid_t pid_;
    asio::posix::stream_descriptor pidfd_;
    asio::posix::stream_descriptor output_;
    asio::posix::stream_descriptor errors_;
    std::optional<ExitStatus> status_;
};

/// A program's whole run: its end, and what it wrote. Each stream is kept up to `max_output` bytes, the rest
/// is read and dropped.
struct RunResult {
    ExitStatus status;
    std::string output;
    std::string errors;
};

/// Runs a program to its end. At the deadline it is killed and Timeout is thrown.
Task<RunResult> run_process(Command command, Deadline deadline,
                            std::size_t max_output = std::size_t{1} << 20);

}  // namespace volchain::async
