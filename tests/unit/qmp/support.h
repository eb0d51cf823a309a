// SPDX-License-Identifier: MIT
//
// What the tests of qmp share: a temporary directory, programs run to their end, a real QEMU, and a peer that
// says what a test makes it say, for what a real one cannot be made to do.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "async/process.h"
#include "base/error.h"
#include "base/json.h"
#include "qmp/session.h"
#include "qmp/storage_daemon.h"
#include "support/run_task.h"

namespace volchain::qmp {

using async::Task;
using Words = std::vector<std::string>;

/// For what happens at once: a limit that a loaded machine keeps too.
[[nodiscard]] inline async::Deadline soon() {
    return async::after(std::chrono::seconds(20));
}
[[nodiscard]] inline async::Deadline after_ms(int milliseconds) {
    return async::after(std::chrono::milliseconds(milliseconds));
}

/// Gone with all that is in it when the test ends.
class TemporaryDirectory {
  public:
    TemporaryDirectory();
    TemporaryDirectory(const TemporaryDirectory&) = delete;
    TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
    ~TemporaryDirectory();
    [[nodiscard]] std::string operator/(std::string_view name) const {
        return path_ + "/" + std::string(name);
    }
    [[nodiscard]] const std::string& path() const noexcept { return path_; }

  private:
    std::string path_;
};

/// Runs a program of /usr/bin to its end; the test fails if it does, and gets what it printed.
std::string run_program(Words words);
/// qemu-img create, with a backing file where one is named.
void create_image(const std::string& path, std::string_view format, std::string_view size,
                  const std::string& backing = {}, std::string_view backing_format = {});

/// The error that the operation throws; the test fails where it throws none.
template <typename T>
Task<Error> failure_of(Task<T> operation) {
    try {
        (void)co_await std::move(operation);
    } catch (const Error& error) {
        co_return error;
    }
    ADD_FAILURE() << "no error was thrown";
    co_return Error(ErrorCode::internal, std::string("no error was thrown"));
}
template <>
Task<Error> failure_of(Task<> operation);

/// Both at a time, to the end of both.
Task<> together(Task<> one, Task<> other);

/// The other end of a connection, with bytes as a test wants them.
class FakePeer {
  public:
    FakePeer(const async::Executor& executor, UniqueFd connected);

    /// Writes exactly these bytes.
    Task<> say(std::string bytes);
    /// The next line, without its end; none when the other side has gone.
    Task<std::optional<std::string>> hear();
    /// The next line as JSON.
    Task<Json> hear_json();
    /// A command of that name, whose id it returns.
    Task<std::uint64_t> hear_command(std::string name);
    /// Hears that command, and answers it with these members: `"return": {}`.
    Task<> answer(std::string command, std::string members);
    /// The greeting of a QEMU, and the answer to qmp_capabilities.
    Task<> greet();
    void hang_up();

  private:
    async::asio::posix::stream_descriptor socket_;
    std::string buffer_;
};

/// A socket that test code listens on.
class FakeServer {
  public:
    FakeServer(const async::Executor& executor, const std::string& path);
    Task<std::unique_ptr<FakePeer>> accept();

  private:
    async::asio::posix::stream_descriptor listening_;
};

/// A negotiated session with a fake peer.
struct FakeSession {
    std::unique_ptr<FakePeer> peer;
    std::shared_ptr<Session> session;
};
Task<FakeSession> fake_session();

/// A qemu-system-x86_64 that does not run its guest.
class Qemu {
  public:
    /// Started with a monitor of our own, and one that listens at "qemu.sock".
    static Task<std::unique_ptr<Qemu>> start(const TemporaryDirectory& directory, Words options);
    /// Started with these options alone.
    static std::unique_ptr<Qemu> start_bare(const async::Executor& executor, const Words& options);

    async::Process process;
    std::shared_ptr<Session> session;

  private:
    explicit Qemu(async::Process started) : process(std::move(started)) {}
};

/// A storage daemon in that directory.
Task<std::shared_ptr<StorageDaemon>> storage_daemon(const TemporaryDirectory& directory);

/// {"a": "b"} and so on, for arguments of commands, which are not written in braces where they are sent.
[[nodiscard]] Json json(std::string_view text);

}  // namespace volchain::qmp
