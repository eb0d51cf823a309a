// SPDX-License-Identifier: MIT
#include "base/failpoint.h"

#ifdef VOLCHAIN_FAILPOINTS

#include <fcntl.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <sstream>
#include <string>

#include "base/error.h"
#include "base/file.h"

namespace volchain {
namespace {

void note_passed(const std::string& directory, std::string_view name) {
    const std::string path = directory + "/passed";
    const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644));
    const std::string line = std::string(name) + "\n";
    if (!fd || ::write(fd.get(), line.data(), line.size()) < 0)
        throw system_error(errno, "cannot note a passed failpoint in " + path);
}

void obey(const std::string& order) {
    std::istringstream words(order);
    std::string verb;
    std::string code;
    std::string text;
    words >> verb;
    if (verb == "kill") {
        (void)::kill(::getpid(), SIGKILL);
    } else if (verb == "stop") {
        (void)::kill(::getpid(), SIGSTOP);
    } else if (verb == "error") {
        words >> code;
        std::getline(words >> std::ws, text);
        throw Error(error_code(code), text);
    } else {
        throw Error(ErrorCode::internal, "unknown failpoint order: {}", order);
    }
}

}  // namespace

void failpoint(std::string_view name) {
    static const char* const directory = std::getenv("VOLCHAIN_FAILPOINTS");
    if (directory == nullptr) return;
    note_passed(directory, name);
    const std::string path = std::string(directory) + "/" + std::string(name);
    if (::access(path.c_str(), F_OK) < 0) return;
    const std::string order = read_file(path, 4096);
    (void)::unlink(path.c_str());
    obey(order);
}

}  // namespace volchain

#else

namespace volchain {

void failpoint(std::string_view) {}

}  // namespace volchain

#endif
