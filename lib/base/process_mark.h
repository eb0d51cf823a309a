// SPDX-License-Identifier: MIT
//
// ProcessMark: a process by what no other one is ever known by as long as the host runs, unlike a mere pid, which comes to
// mean another process one day. For processes that outlive the daemon: it is stored, and finds the process again.
#pragma once

#include <sys/types.h>

#include <cstdint>

namespace volchain {

struct ProcessMark {
    std::uint64_t pid = 0;      ///< 0: none
    std::uint64_t started = 0;  ///< ticks since the host's start: field 22 of /proc/PID/stat (proc(5))

    friend bool operator==(const ProcessMark&, const ProcessMark&) = default;
};

/// Of a process that is there, be it that it has ended and not been waited for; else none.
[[nodiscard]] ProcessMark mark_of_process(pid_t pid);

}  // namespace volchain
