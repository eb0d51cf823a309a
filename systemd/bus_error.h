// SPDX-License-Identifier: MIT
//
// Errors on the bus, in both directions: an error reply becomes an exception, and an exception becomes an
// error reply. These are the only two places where that is done.
#pragma once

#include <exception>
#include <string>

#include "base/error.h"
#include "systemd/message.h"

namespace volchain::bus {

/// Before the name of an ErrorCode: "org.volchain1.Error.NoSpace".
inline constexpr std::string_view error_prefix = "org.volchain1.Error.";

inline constexpr std::string_view access_denied_name = "org.freedesktop.DBus.Error.AccessDenied";
inline constexpr std::string_view interaction_required_name =
    "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired";

/// An error reply that is not one of ours: from the bus itself or from another service. Its code is the
/// nearest of ours, for callers that do not care for the name.
class RemoteError : public Error {
  public:
    RemoteError(std::string error_name, const std::string& message);

    [[nodiscard]] const std::string& error_name() const noexcept { return error_name_; }

  private:
    std::string error_name_;
};

/// Throws what an error reply says: Error where it is org.volchain1.Error.*, else RemoteError.
[[noreturn]] void throw_error_reply(const Message& reply);

/// What a failure is called on the bus, and its text.
struct ErrorReply {
    std::string name;
    std::string text;
};
[[nodiscard]] ErrorReply error_reply(const std::exception_ptr& failure);

}  // namespace volchain::bus
