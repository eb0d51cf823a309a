// SPDX-License-Identifier: MIT
//
// Error: the one exception type for a failed operation.
//
// Its code is the last part of a D-Bus error name (org.volchain1.Error.<code>), its text is for an
// administrator: what failed, on which object, why, and what to do about it, in that order. It is thrown
// where the fact is known, gets context on the way up with during(), and is turned into a D-Bus error, a job
// result or a log line in exactly one place each. It is not used for outcomes that a caller branches on:
// those are optionals and small enums.
#pragma once

#include <fmt/core.h>

#include <stdexcept>
#include <string>
#include <string_view>

namespace volchain {

enum class ErrorCode {
    invalid_argument,
    not_found,
    already_exists,
    busy,         // another job, process or VM works on it; the message names the holder
    in_use,       // another process holds the image, or other objects still need it
    not_running,  // the work needs a running VM
    running,      // the work needs the VM down
    unreachable,  // the QMP socket does not answer, or another client holds it
    agent_unavailable,
    quiesce_failed,
    unsafe_image,  // the header asks for what policy forbids
    corrupt_image,
    broken_chain,
    no_space,
    read_only,
    unsupported,
    cancelled,
    timeout,
    qemu_failed,  // QEMU's own words follow
    interrupted,  // the daemon or QEMU ended in the middle of the operation; the message says how it was
                  // settled
    access_denied,
    interaction_required,
    internal,
};

/// "NoSpace" for no_space: the last part of the D-Bus error name.
[[nodiscard]] std::string_view name(ErrorCode code) noexcept;
/// The inverse of name(); internal for anything unknown.
[[nodiscard]] ErrorCode error_code(std::string_view name) noexcept;

class Error : public std::runtime_error {
  public:
    Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}

    template <typename... Args>
    requires(sizeof...(Args) > 0) Error(ErrorCode code, fmt::format_string<Args...> format, Args&&... args)
        : std::runtime_error(fmt::format(format, std::forward<Args>(args)...)), code_(code) {}

    [[nodiscard]] ErrorCode code() const noexcept { return code_; }

    /// The same error with what was being done in front: "cannot create overlay /a/b: No space left on
    /// device".
    [[nodiscard]] Error during(std::string_view activity) const;

  private:
    ErrorCode code_;
};

/// An Error for a failed system call; the code follows from errno (ENOSPC is NoSpace, EROFS is ReadOnly,
/// ...).
[[nodiscard]] Error system_error(int error_number, std::string_view activity);

/// Any exception as an Error: an Error as it is, everything else as internal with its text.
[[nodiscard]] Error to_error(const std::exception_ptr& failure);

}  // namespace volchain
