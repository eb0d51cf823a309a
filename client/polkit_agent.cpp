// SPDX-License-Identifier: MIT
#include "client/polkit_agent.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <string>

#include "base/unique_fd.h"

namespace volchain::client {
namespace {

constexpr const char* program = "/usr/bin/pkttyagent";
constexpr int start_limit_ms = 5000;

[[noreturn]] void become_agent(int notify) {
    (void)::prctl(PR_SET_PDEATHSIG, SIGTERM);
    (void)::fcntl(notify, F_SETFD, 0);
    // It asks on /dev/tty; what it says where there is no polkit, the daemon's answer says better.
    const int nowhere = ::open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (nowhere >= 0) (void)::dup2(nowhere, STDERR_FILENO);
    const std::string number = std::to_string(notify);
    // --fallback: an agent of the user's session comes first.
    (void)::execl(program, "pkttyagent", "--notify-fd", number.c_str(), "--fallback", nullptr);
    ::_exit(127);
}

/// pkttyagent closes the descriptor when it is ready; its end closes it, too.
void wait_until_closed(int fd) {
    pollfd wait{fd, POLLIN, 0};
    while (::poll(&wait, 1, start_limit_ms) < 0 && errno == EINTR) continue;
}

}  // namespace

std::unique_ptr<PolkitAgent> PolkitAgent::start() {
    if (::geteuid() == 0 || ::isatty(STDIN_FILENO) == 0 || ::isatty(STDERR_FILENO) == 0 ||
        ::access(program, X_OK) < 0)
        return nullptr;
    int ends[2] = {-1, -1};
    if (::pipe2(ends, O_CLOEXEC) < 0) return nullptr;
    const UniqueFd ready(ends[0]);
    UniqueFd notify(ends[1]);
    const pid_t pid = ::fork();
    if (pid < 0) return nullptr;
    if (pid == 0) become_agent(notify.get());
    notify.reset();
    wait_until_closed(ready.get());
    return std::unique_ptr<PolkitAgent>(new PolkitAgent(pid));
}

PolkitAgent::~PolkitAgent() {
    (void)::kill(pid_, SIGTERM);
    (void)::kill(pid_, SIGCONT);  // it may be stopped, as a background process that reads the terminal is
    while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) continue;
}

}  // namespace volchain::client
