// SPDX-License-Identifier: MIT
//
// The options of a disk as they stand in a QEMU's command line: aio and discard cannot be asked for over QMP.
// A node that was added to the running QEMU is not in there, and the line is whatever the process says it is:
// what is found is good for choosing the options of an overlay, not for more.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "qmp/node.h"

namespace volchain::qmp {

/// The options of the layer with that node name, -drive id or file, from the -blockdev (JSON or key=value)
/// and -drive arguments; none where they do not speak of it. `names` are tried one after the other, over all
/// arguments.
[[nodiscard]] std::optional<NodeOptions> options_in_command_line(const std::vector<std::string>& arguments,
                                                                 const std::vector<std::string>& names);

/// Whether QEMU has just one QMP monitor, so that whoever is connected to that is the only client. False where the
/// arguments do not tell.
[[nodiscard]] bool one_qmp_monitor(const std::vector<std::string>& arguments);

/// The arguments of a process (/proc/PID/cmdline), none where it has ended.
[[nodiscard]] std::vector<std::string> command_line_of(pid_t pid);

}  // namespace volchain::qmp
