// SPDX-License-Identifier: MIT
//
// PrivateBus: a real dbus-daemon for one test, configured as the system bus is (nobody owns or calls anything
// unless a policy says so), and the programs that tests run on it. The process's DBUS_SYSTEM_BUS_ADDRESS
// points to it as long as it lives. Everything that waits has a limit.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "async/process.h"
#include "async/task.h"
#include "systemd/bus_connection.h"

namespace volchain::bus {

inline constexpr uid_t nobody = 65534;

class PrivateBus {
  public:
    [[nodiscard]] static async::Task<std::unique_ptr<PrivateBus>> start();

    PrivateBus(const PrivateBus&) = delete;
    PrivateBus& operator=(const PrivateBus&) = delete;
    ~PrivateBus();

    void kill() { daemon_.signal(SIGKILL); }
    /// Stops (or lets go on) the daemon: sent messages stay unanswered meanwhile.
    void freeze() { daemon_.signal(SIGSTOP); }
    void thaw() { daemon_.signal(SIGCONT); }

    [[nodiscard]] const std::string& address() const noexcept { return address_; }

    /// A connection of this process, made as another user where that is asked for (and the test runs as
    /// root): the bus takes a caller for who it was when it connected.
    [[nodiscard]] std::unique_ptr<Connection> connect(uid_t user = 0);
    /// Runs `busctl ARGUMENTS...` on the bus, to its end. Other users than root need the test to run as root.
    async::Task<async::RunResult> busctl(std::vector<std::string> arguments, uid_t user = 0);
    /// Starts python-dbusmock's polkitd; returns when it has its name.
    [[nodiscard]] async::Task<std::unique_ptr<async::Process>> start_mock_polkit();

  private:
    PrivateBus(async::Executor executor, std::filesystem::path directory, async::Process daemon);

    async::Executor executor_;
    std::filesystem::path directory_;
    async::Process daemon_;
    std::string address_;
};

/// The deadline of whatever ought to happen at once, on a machine that may be busy.
[[nodiscard]] inline async::Deadline soon() {
    return async::after(std::chrono::seconds(20));
}

}  // namespace volchain::bus
