// SPDX-License-Identifier: MIT
//
// StorageDaemon: a qemu-storage-daemon process and the session with it. Volumes that no VM uses are worked on in
// one of these, with the same commands as in a running VM. Its monitor is one end of a connection that it inherits:
// it is there from the first moment, nobody else can get at it, nobody waits for a socket to appear, and nothing is
// left behind. (Not a listening socket: a storage daemon that finds a connection waiting at its start hangs now and
// then, 3 times in 100 as measured with QEMU 7.2.) A further monitor listens on a path where that is asked for.
//
// A child (start()) ends with this object at the latest. A daemon of its own (start() with `detached`) runs
// on when this process ends, and is found again by its socket (attach()).
//
// It does not know what the daemon is used for: the owner sends it the commands.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "async/process.h"
#include "qmp/session.h"

namespace volchain::qmp {

/// A storage daemon that somebody else is to start: a class with a constructor, so that it may be handed to coroutines.
struct StorageDaemonLaunch {
    explicit StorageDaemonLaunch(std::vector<std::string> arguments) : argv(std::move(arguments)) {}

    std::vector<std::string> argv;
    int input = -1;  ///< what its standard input and output are to be; borrowed until it runs
    int output = -1;
};

/// A class with a constructor, so that it may be handed to coroutines.
struct StorageDaemonOptions {
    explicit StorageDaemonOptions(std::string monitor_socket) : socket(std::move(monitor_socket)) {}

    /// What messages call it; and where it is not ephemeral, the path of a monitor socket to make, of mode 0600, for
    /// attach(). QEMU removes it when it ends in order.
    std::string socket;
    bool ephemeral = true;
    /// Not our child; not ephemeral either. `identity`, `files` and the limits below hold all the same.
    bool detached = false;
    /// Starts a detached one in our place; then nothing of what follows `arguments` holds but what that one sees to.
    std::function<async::Task<>(StorageDaemonLaunch)> launch;
    std::string program;                 ///< where empty, qemu-storage-daemon is looked for
    std::vector<std::string> arguments;  ///< further ones ("--object", ...)

    /// As in async::Command.
    std::optional<async::Identity> identity;
    std::vector<async::Command::Access> files;
    std::vector<int> inherit;
    std::uint64_t max_memory = 0;
    std::uint64_t max_open_files = 1024;
};

class StorageDaemon {
  public:
    /// Starts one and negotiates with it. Where it ends instead of greeting, the error has its words.
    static async::Task<std::shared_ptr<StorageDaemon>> start(StorageDaemonOptions options,
                                                             async::Deadline deadline);
    /// Connects to one that runs. Throws ConnectError.
    static async::Task<std::shared_ptr<StorageDaemon>> attach(std::string socket, async::Deadline deadline);

    StorageDaemon(const StorageDaemon&) = delete;
    StorageDaemon& operator=(const StorageDaemon&) = delete;
    /// Kills a child that still runs; a detached one is left alone. stop() is the orderly way: images are
    /// closed and bitmaps stored.
    ~StorageDaemon();

    /// For commands. When the daemon ends unexpectedly, their errors say how it ended and what its last words
    /// were.
    [[nodiscard]] const std::shared_ptr<Session>& session() const noexcept { return session_; }
    [[nodiscard]] pid_t pid() const noexcept;

    /// Returns when the process has ended, in whatever way; Timeout at the deadline.
    async::Task<> wait_ended(async::Deadline deadline);

    /// Ends it: `quit`, and what has not ended by the deadline gets SIGTERM, and SIGKILL some seconds later.
    /// True where it ended in order, which is with exit status 0 where that can be known. Never throws for a
    /// daemon that has ended.
    async::Task<bool> stop(async::Deadline deadline);

  private:
    struct Child;

    StorageDaemon(std::shared_ptr<Session> session, std::shared_ptr<Child> child)
        : session_(std::move(session)), child_(std::move(child)) {}

    [[nodiscard]] static async::Task<> run_detached(async::Command command, async::Deadline deadline);
    [[nodiscard]] static async::Task<std::string> last_words(std::shared_ptr<Child> child);
    [[nodiscard]] async::Task<bool> ended_by(async::Deadline deadline);
    void signal(int number) noexcept;

    std::shared_ptr<Session> session_;
    std::shared_ptr<Child> child_;  ///< null: not our child
};

}  // namespace volchain::qmp
