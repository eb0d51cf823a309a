// SPDX-License-Identifier: MIT
//
// ProcessKeeper: the service manager that runs the daemon, for the processes of exports. It puts a process out of reach of
// what ends all processes of the daemon together with it; and it does in the daemon's place what the daemon itself is not
// allowed to, and no process that it starts: to mount something for the whole host to see, and to listen on its network.
// Where there is no service manager, a process that is no child of ours stays by itself, and may what we may.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "async/task.h"
#include "base/unique_fd.h"
#include "storage/exports/export_listener.h"

namespace volchain::storage {

/// A storage daemon that shows an export as a file. A class with a constructor, so that it may be handed to coroutines.
struct MountingProcess {
    MountingProcess(std::string unique_name, std::vector<std::string> arguments)
        : name(std::move(unique_name)), argv(std::move(arguments)) {}

    std::string name;  ///< for as long as the process is there
    std::string what;  ///< what people are told that it is
    std::vector<std::string> argv;
    std::string mountpoint;  ///< nothing is mounted there any more when the process has ended, however it has
    int input = -1;          ///< standard input and output; borrowed
    int output = -1;
};

class ProcessKeeper {
  public:
    ProcessKeeper() = default;
    ProcessKeeper(const ProcessKeeper&) = delete;
    ProcessKeeper& operator=(const ProcessKeeper&) = delete;
    virtual ~ProcessKeeper() = default;

    /// `name`: unique, for as long as the process is there; `what`: what people are told that it is.
    virtual async::Task<> keep(pid_t process, std::string name, std::string what) = 0;

    /// Returns when it runs.
    virtual async::Task<> start(MountingProcess process) = 0;
    /// Ends a process that start() has started, if it is there, and returns when nothing is mounted any more.
    virtual async::Task<> end(std::string name) = 0;

    /// listen_tcp() on the host's network. `name`: unique.
    virtual async::Task<UniqueFd> listen(std::string name, TcpAddress address) = 0;
};

}  // namespace volchain::storage
