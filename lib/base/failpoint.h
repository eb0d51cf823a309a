// SPDX-License-Identifier: MIT
//
// Failpoints: named places between the steps of an operation at which a test can end, stop or fail the
// daemon.
//
// A build without -Dfailpoints=true has none. In a build with them, the environment variable
// VOLCHAIN_FAILPOINTS names a directory: each place that is passed appends its name to the file `passed` in
// it, and if a file of that name exists there, it is removed and its content obeyed:
//   kill              SIGKILL to this process
//   stop              SIGSTOP to this process; the test looks around and sends SIGCONT
//   error CODE TEXT   throws Error(CODE, TEXT)
#pragma once

#include <string_view>

namespace volchain {

void failpoint(std::string_view name);

}  // namespace volchain
