// SPDX-License-Identifier: MIT
#include "client/guestfish.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdlib>
#include <sstream>

#include "base/error.h"
#include "base/text.h"
#include "base/unique_fd.h"

namespace volchain::client {
namespace {

constexpr const char* guestfish_program = "guestfish";
constexpr std::string_view pid_mark = "GUESTFISH_PID=";

/// ^C is for the programs that run; then the export is to be ended here.
class DeafToInterrupts {
  public:
    DeafToInterrupts() : before_(std::signal(SIGINT, SIG_IGN)) {}
    DeafToInterrupts(const DeafToInterrupts&) = delete;
    DeafToInterrupts& operator=(const DeafToInterrupts&) = delete;
    ~DeafToInterrupts() { (void)std::signal(SIGINT, before_); }

  private:
    void (*before_)(int);
};

[[noreturn]] void become(const std::vector<std::string>& argv, int output) {
    std::vector<char*> words;
    for (const std::string& word : argv) words.push_back(const_cast<char*>(word.c_str()));
    words.push_back(nullptr);
    const int nothing = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    (void)::dup2(nothing, STDIN_FILENO);
    (void)::dup2(output, STDOUT_FILENO);
    (void)std::signal(SIGINT, SIG_DFL);
    // Without libvirt, unless somebody wants that: it is one thing less to be installed, and to have rights in.
    (void)::setenv("LIBGUESTFS_BACKEND", "direct", 0);
    (void)::execvp(words.front(), words.data());
    ::_exit(127);
}

std::string read_all(int fd) {
    std::string text;
    std::array<char, 65536> buffer{};
    while (true) {
        const ssize_t got = ::read(fd, buffer.data(), buffer.size());
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) throw system_error(errno, "cannot read what guestfish says");
        if (got == 0) return text;
        text.append(buffer.data(), static_cast<std::size_t>(got));
    }
}

int wait_for(pid_t child) {
    int status = 0;
    while (::waitpid(child, &status, 0) < 0)
        if (errno != EINTR) throw system_error(errno, "cannot wait for guestfish");
    return status;
}

/// What the program prints. What it says on standard error is for the user.
std::string output_of(const std::vector<std::string>& argv, const std::string& what) {
    const DeafToInterrupts deaf;
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) < 0) throw system_error(errno, "cannot make a pipe");
    const UniqueFd output(ends[0]);
    UniqueFd input(ends[1]);
    const pid_t child = ::fork();
    if (child < 0) throw system_error(errno, "cannot start guestfish");
    if (child == 0) become(argv, input.get());
    input.reset();
    std::string text = read_all(output.get());
    const int status = wait_for(child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return text;
    throw Error(WIFSIGNALED(status) ? ErrorCode::cancelled : ErrorCode::unsupported,
                "guestfish could not do '{}'; see what it says above", what);
}

}  // namespace

void Guestfish::require() {
    const char* const path = std::getenv("PATH");
    std::istringstream directories(path == nullptr ? "/usr/local/bin:/usr/bin:/bin" : path);
    std::string directory;
    while (std::getline(directories, directory, ':'))
        if (::access((directory + "/" + guestfish_program).c_str(), X_OK) == 0) return;
    throw Error(
        ErrorCode::not_found,
        "to read files of a guest takes guestfish, which is not installed: it is in Debian's package "
        "guestfish, in Fedora's guestfs-tools. Without it, 'volchainctl export create --kind=file' shows "
        "the disk as a file that root can mount");
}

Guestfish::Guestfish(const std::string& socket) {
    const std::vector<std::string> argv{guestfish_program, "--listen", "--ro",
                                        "--format=raw",    "-a",       "nbd://?socket=" + socket};
    const std::string text = output_of(argv, "--listen");
    const std::size_t at = text.find(pid_mark);
    const char* const begin = text.data() + (at == std::string::npos ? text.size() : at + pid_mark.size());
    if (std::from_chars(begin, text.data() + text.size(), pid_).ec != std::errc() || pid_ <= 1)
        throw Error(ErrorCode::unsupported, "guestfish does not say which process it is: {}", quote(text));
}

Guestfish::~Guestfish() {
    end();
}

std::string Guestfish::run(const std::vector<std::string>& command) {
    std::vector<std::string> argv{guestfish_program, "--remote=" + std::to_string(pid_), "--"};
    argv.insert(argv.end(), command.begin(), command.end());
    return output_of(argv, joined(command, " "));
}

void Guestfish::end() noexcept {
    if (pid_ == 0) return;
    // It takes its virtual machine along.
    (void)::kill(pid_, SIGTERM);
    pid_ = 0;
}

std::vector<std::pair<std::string, std::string>> guestfish_pairs(const std::string& text) {
    std::vector<std::pair<std::string, std::string>> pairs;
    std::istringstream lines(text);
    std::string line;
    while (std::getline(lines, line)) {
        const std::size_t colon = line.rfind(": ");
        if (colon != std::string::npos) pairs.emplace_back(line.substr(0, colon), line.substr(colon + 2));
    }
    return pairs;
}

}  // namespace volchain::client
