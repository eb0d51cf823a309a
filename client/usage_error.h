// SPDX-License-Identifier: MIT
//
// UsageError: the command line itself is wrong (exit status 2). What the daemon refuses is an Error instead
// (exit status 1).
#pragma once

#include <fmt/core.h>

#include <stdexcept>
#include <utility>

namespace volchain::client {

class UsageError : public std::runtime_error {
  public:
    template <typename... Args>
    explicit UsageError(fmt::format_string<Args...> format, Args&&... args)
        : std::runtime_error(fmt::format(format, std::forward<Args>(args)...)) {}
};

}  // namespace volchain::client
