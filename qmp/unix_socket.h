// SPDX-License-Identifier: MIT
//
// Unix stream sockets as QEMU's monitors and the guest agent's ports use them: connecting to one that QEMU
// listens on, and making a listening one that QEMU inherits. Nothing here waits: connect(2) on a Unix socket
// succeeds or fails at once.
#pragma once

#include <sys/types.h>

#include <string>
#include <utility>

#include "base/error.h"
#include "base/unique_fd.h"

namespace volchain::qmp {

/// Why there is no connection. The code is Unreachable, whatever the reason.
class ConnectError : public Error {
  public:
    enum class Reason {
        nobody_listens,          ///< no such socket, or nothing accepts on it: QEMU is not running
        held_by_another_client,  ///< accepted but not greeted: a monitor serves one client at a time
        refused,                 ///< the kernel does not let this process connect
        lost,                    ///< the connection ended before it was of use
        not_qmp,                 ///< what answers does not speak QMP
    };

    ConnectError(Reason reason, const std::string& message)
        : Error(ErrorCode::unreachable, message), reason_(reason) {}
    [[nodiscard]] Reason reason() const noexcept { return reason_; }

  private:
    Reason reason_;
};

/// A connection to the socket at `path`, non-blocking, with SO_PASSCRED set (see Wire::sender()). A full
/// backlog counts as held_by_another_client.
[[nodiscard]] UniqueFd connect_unix(const std::string& path);

/// Both ends of a connection: ours, as connect_unix() gives it, and one for QEMU to inherit.
[[nodiscard]] std::pair<UniqueFd, UniqueFd> connected_pair();

/// A listening socket at `path`, which must not exist, of the given mode, for QEMU to inherit. Close-on-exec and
/// non-blocking.
[[nodiscard]] UniqueFd listen_unix(const std::string& path, mode_t mode);

}  // namespace volchain::qmp
