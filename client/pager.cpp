// SPDX-License-Identifier: MIT
#include "client/pager.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <string_view>

#include "base/unique_fd.h"

namespace volchain::client {
namespace {

constexpr const char* usual_pager = "less";
/// sh says so where the program is not there.
constexpr int exit_not_found = 127;

/// While the pager has the terminal, ^C is its, and its end must not end us in the middle of a write.
class WithoutSignals {
  public:
    WithoutSignals() : interrupt_(std::signal(SIGINT, SIG_IGN)), pipe_(std::signal(SIGPIPE, SIG_IGN)) {}
    WithoutSignals(const WithoutSignals&) = delete;
    WithoutSignals& operator=(const WithoutSignals&) = delete;
    ~WithoutSignals() {
        (void)std::signal(SIGINT, interrupt_);
        (void)std::signal(SIGPIPE, pipe_);
    }

  private:
    void (*interrupt_)(int);
    void (*pipe_)(int);
};

bool foreign_privileges() {
    return ::geteuid() != ::getuid() || ::getegid() != ::getgid() || std::getenv("SUDO_UID") != nullptr;
}

/// The command line for sh; empty for none.
std::string pager_command() {
    if (foreign_privileges()) return usual_pager;
    const char* wanted = std::getenv("VOLCHAIN_PAGER");
    if (wanted == nullptr) wanted = std::getenv("PAGER");
    if (wanted == nullptr) return usual_pager;
    return std::string_view(wanted) == "cat" ? "" : wanted;
}

[[noreturn]] void become_pager(const std::string& command, int input) {
    (void)::dup2(input, STDIN_FILENO);
    (void)std::signal(SIGINT, SIG_DFL);
    (void)std::signal(SIGPIPE, SIG_DFL);
    // Leave what was shown on the screen, keep colours, chop long lines, end at ^C.
    (void)::setenv("LESS", "FRSXMK", 0);
    if (foreign_privileges()) (void)::setenv("LESSSECURE", "1", 1);
    (void)::execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
    ::_exit(exit_not_found);
}

void write_all(int fd, std::string_view text) {
    while (!text.empty()) {
        const ssize_t written = ::write(fd, text.data(), text.size());
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) return;  // the user has seen enough
        text.remove_prefix(static_cast<std::size_t>(written));
    }
}

bool ended_well(pid_t pager) {
    int status = 0;
    while (::waitpid(pager, &status, 0) < 0)
        if (errno != EINTR) return true;
    return !WIFEXITED(status) || WEXITSTATUS(status) != exit_not_found;
}

}  // namespace

bool show_in_pager(const std::string& text) {
    const std::string command = pager_command();
    int ends[2] = {-1, -1};
    if (command.empty() || ::pipe2(ends, O_CLOEXEC) < 0) return false;
    const UniqueFd input(ends[0]);
    UniqueFd output(ends[1]);
    const WithoutSignals ignored;
    const pid_t pager = ::fork();
    if (pager < 0) return false;
    if (pager == 0) become_pager(command, input.get());
    write_all(output.get(), text);
    output.reset();
    return ended_well(pager);
}

}  // namespace volchain::client
