// SPDX-License-Identifier: MIT
#include "client/program_path.h"

#include <unistd.h>

#include <cstdlib>
#include <sstream>

#include "base/error.h"

namespace volchain::client {

std::string program_path(const std::string& name, const std::string& packages) {
    const char* const path = std::getenv("PATH");
    std::istringstream directories((path == nullptr ? std::string() : std::string(path) + ":") +
                                   "/usr/local/bin:/usr/bin:/bin");
    std::string directory;
    while (std::getline(directories, directory, ':')) {
        const std::string program = directory + "/" + name;
        if (directory.starts_with('/') && ::access(program.c_str(), X_OK) == 0) return program;
    }
    throw Error(ErrorCode::not_found, "this takes {}, which is not installed: it is in {}", name, packages);
}

}  // namespace volchain::client
