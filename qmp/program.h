// SPDX-License-Identifier: MIT
//
// Where QEMU's programs are: looked for in fixed directories, never in $PATH.
#pragma once

#include <string>
#include <string_view>

namespace volchain::qmp {

/// The absolute path of an executable file of that name; NotFound, saying where it was looked for, where
/// there is none.
[[nodiscard]] std::string find_program(std::string_view name);

}  // namespace volchain::qmp
