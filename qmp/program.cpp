// SPDX-License-Identifier: MIT
#include "qmp/program.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>

#include "base/error.h"

namespace volchain::qmp {
namespace {

constexpr std::array<std::string_view, 4> directories{"/usr/bin", "/usr/libexec", "/usr/lib/qemu",
                                                      "/usr/local/bin"};

}  // namespace

std::string find_program(std::string_view name) {
    for (const std::string_view directory : directories) {
        std::string path = fmt::format("{}/{}", directory, name);
        if (::access(path.c_str(), X_OK) == 0) return path;
    }
    throw Error(ErrorCode::not_found, "{} is not installed: it is in none of {}", name,
                fmt::join(directories, ", "));
}

}  // namespace volchain::qmp
