// SPDX-License-Identifier: MIT
//
// Programs of others that volchainctl runs.
#pragma once

#include <string>

namespace volchain::client {

inline constexpr const char* qemu_img_package = "Debian's package qemu-utils";
inline constexpr const char* storage_daemon_package = "Debian's package qemu-system-common";

/// The absolute path of a program in $PATH, or in the system's usual directories; NotFound, saying what to install.
[[nodiscard]] std::string program_path(const std::string& name, const std::string& packages);

}  // namespace volchain::client
