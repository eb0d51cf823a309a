// SPDX-License-Identifier: MIT
//
// The pager: a program (less) that shows on a terminal what does not fit on it. VOLCHAIN_PAGER or PAGER name
// another one; "" or "cat" none. With foreign privileges (sudo, setuid) it is less in its secure mode,
// whatever the environment says: what somebody may ask the daemon as root is no shell as root.
#pragma once

#include <string>

namespace volchain::client {

/// Lets the user read `text`; returns when the pager has ended. False where there is no pager: print it then.
[[nodiscard]] bool show_in_pager(const std::string& text);

}  // namespace volchain::client
