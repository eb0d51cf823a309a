// SPDX-License-Identifier: MIT
#include "base/process_mark.h"

#include <fmt/format.h>

#include <sstream>
#include <string>

#include "base/error.h"
#include "base/file.h"

namespace volchain {

ProcessMark mark_of_process(pid_t pid) {
    if (pid <= 0) return {};
    std::string stat;
    try {
        stat = read_file(fmt::format("/proc/{}/stat", pid), 4096);
    } catch (const Error&) {
        return {};  // gone, also between the opening and the reading
    }
    // The second field is the program's name in parentheses, which may hold any character.
    const std::size_t name_end = stat.rfind(')');
    if (name_end == std::string::npos) return {};
    std::istringstream fields(stat.substr(name_end + 1));
    std::string skipped;
    for (int field = 3; field < 22; ++field) fields >> skipped;
    ProcessMark mark;
    mark.pid = static_cast<std::uint64_t>(pid);
    fields >> mark.started;
    return fields ? mark : ProcessMark{};
}

}  // namespace volchain
