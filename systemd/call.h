// SPDX-License-Identifier: MIT
//
// Call: one method call that somebody made to an object of ours, from its arrival to its reply; and Gate,
// which every call passes before its handler. A Call is a handle: copies mean the same call, so it is handed
// to coroutines by value.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>

#include "async/task.h"
#include "base/uuid.h"
#include "systemd/bus_connection.h"
#include "systemd/message.h"

namespace volchain::bus {

class Call {
  public:
    /// `object`: the id in the path, nil where the object is one of its kind.
    Call(Connection& connection, Message message, Uuid object);

    /// The caller's unique name on the bus: who it is, for as long as it is connected. Never used again for
    /// another.
    [[nodiscard]] const std::string& sender() const noexcept;
    [[nodiscard]] const std::string& path() const noexcept;
    [[nodiscard]] const std::string& interface() const noexcept;
    [[nodiscard]] const std::string& member() const noexcept;
    [[nodiscard]] Uuid object() const noexcept;
    /// "org.volchain1.Disk.Resize on /org/volchain1/disk/...", for messages.
    [[nodiscard]] std::string str() const;
    /// Whether the caller can wait while somebody is asked for a password.
    [[nodiscard]] bool interactive() const noexcept;

    /// The caller's user, asked of the bus once. AccessDenied where the caller has left.
    async::Task<uid_t> sender_uid();

    [[nodiscard]] const Message& message() const noexcept;
    /// The reply, to be filled by the layer that serves the call.
    [[nodiscard]] Message make_reply() const;

  private:
    struct State;
    std::shared_ptr<State> state_;
};

/// Decides whether a call may be made: returns, or throws AccessDenied or InteractiveAuthorizationRequired.
/// It runs before anything of the call is looked at but its header.
class Gate {
  public:
    Gate() = default;
    Gate(const Gate&) = delete;
    Gate& operator=(const Gate&) = delete;
    virtual ~Gate() = default;

    virtual async::Task<> authorize(Call call) = 0;
};

}  // namespace volchain::bus
