// SPDX-License-Identifier: MIT
//
// Polkit: asks polkit whether the caller of a method may do an action. Root may without asking. Everything
// but a clear yes is a no: polkit that is absent, broken or silent refuses everybody else.
//
// The subject is the caller's unique name on the bus, which no other process can get. Where the call allows
// it, polkit may ask somebody for a password meanwhile; that question is withdrawn when the caller leaves.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <tuple>

#include "async/task.h"
#include "systemd/call.h"

namespace volchain::bus {

class Polkit {
  public:
    /// What the password dialog may show and rules may look at, by name: {"disk", "data of vm1"}.
    using Details = std::map<std::string, std::string>;

    /// How long to wait for polkit itself, and for a person.
    struct Limits {
        std::chrono::milliseconds answer{std::chrono::seconds(25)};
        std::chrono::milliseconds interaction{std::chrono::seconds(120)};
    };

    /// `send_details`: polkit takes details from root, and from the user named in the action's annotation
    /// org.freedesktop.policykit.owner; from anybody else it refuses the whole question.
    Polkit(Connection& connection, bool send_details) : Polkit(connection, send_details, Limits()) {}
    Polkit(Connection& connection, bool send_details, Limits limits)
        : connection_(connection), send_details_(send_details), limits_(limits) {}

    /// Returns where the caller may. Throws InteractiveAuthorizationRequired where it might if polkit could
    /// ask for a password, which the call did not allow; AccessDenied otherwise.
    async::Task<> check(Call call, std::string action, Details details);

  private:
    struct Question;
    /// AuthorizationResult: is_authorized, is_challenge, details
    using Result = std::tuple<bool, bool, Details>;

    async::Task<Result> ask(Call call, std::string action, Message message, std::string cancellation_id);

    Connection& connection_;
    bool send_details_;
    Limits limits_;
    std::uint64_t last_question_ = 0;
    bool failing_ = false;
};

}  // namespace volchain::bus
