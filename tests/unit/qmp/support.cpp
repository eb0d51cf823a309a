// SPDX-License-Identifier: MIT
#include "support.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/multiple_exceptions.hpp>
#include <boost/asio/write.hpp>
#include <csignal>
#include <cstdlib>
#include <filesystem>

#include "qmp/unix_socket.h"

namespace volchain::qmp {

namespace asio = async::asio;

TemporaryDirectory::TemporaryDirectory() {
    std::string name = "/tmp/volchain-qmp-XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) throw system_error(errno, "mkdtemp");
    path_ = name;
}

TemporaryDirectory::~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
}

std::string run_program(Words words) {
    words.front() = "/usr/bin/" + words.front();
    std::string printed;
    async::Loop loop;
    const auto run = [](Words argv, std::string& output) -> Task<> {
        async::Command command(std::move(argv));
        const async::RunResult result = co_await async::run_process(std::move(command), soon());
        EXPECT_TRUE(result.status.ok()) << result.status.str() << ": " << result.errors;
        output = result.output;
    };
    loop.run_main(run(std::move(words), printed));
    return printed;
}

void create_image(const std::string& path, std::string_view format, std::string_view size,
                  const std::string& backing, std::string_view backing_format) {
    Words words{"qemu-img", "create", "-q", "-f", std::string(format)};
    if (!backing.empty()) words.insert(words.end(), {"-b", backing, "-F", std::string(backing_format)});
    words.push_back(path);
    words.emplace_back(size);
    (void)run_program(std::move(words));
}

template <>
Task<Error> failure_of(Task<> operation) {
    try {
        co_await std::move(operation);
    } catch (const Error& error) {
        co_return error;
    }
    ADD_FAILURE() << "no error was thrown";
    co_return Error(ErrorCode::internal, std::string("no error was thrown"));
}

Task<> together(Task<> one, Task<> other) {
    using asio::experimental::awaitable_operators::operator&&;
    auto both = std::move(one) && std::move(other);
    try {
        co_await std::move(both);
    } catch (const asio::multiple_exceptions& failures) {
        std::rethrow_exception(failures.first_exception());
    }
}

Json json(std::string_view text) {
    return parse_json(text, "a test", ErrorCode::internal);
}

// --- FakePeer ----------------------------------------------------------------------------------------------

FakePeer::FakePeer(const async::Executor& executor, UniqueFd connected)
    : socket_(executor, connected.release()) {
    (void)::signal(SIGPIPE, SIG_IGN);  // of say() when the other side has gone
}

Task<> FakePeer::say(std::string bytes) {
    auto writing = asio::async_write(socket_, asio::buffer(bytes), asio::as_tuple(asio::use_awaitable));
    (void)co_await std::move(writing);  // the other side may go away
}

Task<std::optional<std::string>> FakePeer::hear() {
    while (true) {
        const std::size_t end = buffer_.find('\n');
        if (end != std::string::npos) {
            std::string line = buffer_.substr(0, end);
            buffer_.erase(0, end + 1);
            co_return line;
        }
        std::array<char, 65536> bytes{};
        const auto [failure, got] =
            co_await socket_.async_read_some(asio::buffer(bytes), asio::as_tuple(asio::use_awaitable));
        if (failure) co_return std::nullopt;
        buffer_.append(bytes.data(), got);
    }
}

Task<Json> FakePeer::hear_json() {
    const auto line = co_await hear();
    if (!line) throw Error(ErrorCode::internal, std::string("the other side has gone"));
    co_return json(*line);
}

Task<std::uint64_t> FakePeer::hear_command(std::string name) {
    const Json command = co_await hear_json();
    EXPECT_EQ(command.value("execute", ""), name);
    co_return command.value("id", std::uint64_t{0});
}

Task<> FakePeer::answer(std::string command, std::string members) {
    const std::uint64_t id = co_await hear_command(std::move(command));
    co_await say(fmt::format("{{\"id\": {}, {}}}\n", id, members));
}

Task<> FakePeer::greet() {
    co_await say(
        "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 0, \"minor\": 2, \"major\": 7}, \"package\": \"\"}, "
        "\"capabilities\": [\"oob\"]}}\r\n");
    const std::uint64_t id = co_await hear_command("qmp_capabilities");
    co_await say(fmt::format("{{\"return\": {{}}, \"id\": {}}}\r\n", id));
}

void FakePeer::hang_up() {
    socket_.close();
}

// --- FakeServer and sessions -------------------------------------------------------------------------------

FakeServer::FakeServer(const async::Executor& executor, const std::string& path)
    : listening_(executor, listen_unix(path, 0600).release()) {}

Task<std::unique_ptr<FakePeer>> FakeServer::accept() {
    const async::Executor executor = co_await asio::this_coro::executor;
    UniqueFd connected;
    while (!connected) {
        co_await listening_.async_wait(asio::posix::stream_descriptor::wait_read, asio::use_awaitable);
        connected.reset(::accept4(listening_.native_handle(), nullptr, nullptr, SOCK_CLOEXEC));
    }
    co_return std::make_unique<FakePeer>(executor, std::move(connected));
}

namespace {

Task<> adopt_into(std::shared_ptr<Session>& session, UniqueFd connected) {
    session = co_await Session::adopt(std::move(connected), "fake", soon());
}

}  // namespace

Task<FakeSession> fake_session() {
    const async::Executor executor = co_await asio::this_coro::executor;
    auto [ours, theirs] = connected_pair();
    FakeSession fake;
    fake.peer = std::make_unique<FakePeer>(executor, std::move(theirs));
    co_await together(fake.peer->greet(), adopt_into(fake.session, std::move(ours)));
    co_return fake;
}

// --- real ones ---------------------------------------------------------------------------------------------

namespace {

Words qemu_words() {
    return {"/usr/bin/qemu-system-x86_64",
            "-M",
            "q35",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-S",
            "-accel",
            "tcg",
            "-m",
            "32"};
}

}  // namespace

std::unique_ptr<Qemu> Qemu::start_bare(const async::Executor& executor, const Words& options) {
    async::Command command(qemu_words());
    command.argv.insert(command.argv.end(), options.begin(), options.end());
    return std::unique_ptr<Qemu>(new Qemu(async::Process::start(executor, command)));
}

Task<std::unique_ptr<Qemu>> Qemu::start(const TemporaryDirectory& directory, Words options) {
    const async::Executor executor = co_await asio::this_coro::executor;
    const std::string path = directory / "qemu.sock";
    const UniqueFd listening = listen_unix(path, 0600);
    auto [ours, theirs] = connected_pair();
    async::Command command(qemu_words());
    Words monitors{"-chardev", fmt::format("socket,id=own,fd={},server=off", theirs.get()),
                   "-mon",     "chardev=own,mode=control",
                   "-chardev", fmt::format("socket,id=path,fd={},server=on,wait=off", listening.get()),
                   "-mon",     "chardev=path,mode=control"};
    command.argv.insert(command.argv.end(), monitors.begin(), monitors.end());
    command.argv.insert(command.argv.end(), options.begin(), options.end());
    command.inherit.push_back(theirs.get());
    command.inherit.push_back(listening.get());
    std::unique_ptr<Qemu> qemu(new Qemu(async::Process::start(executor, command)));
    theirs.reset();
    qemu->session = co_await Session::adopt(std::move(ours), path, soon());
    co_return qemu;
}

Task<std::shared_ptr<StorageDaemon>> storage_daemon(const TemporaryDirectory& directory) {
    StorageDaemonOptions options(directory / "qsd.sock");
    co_return co_await StorageDaemon::start(std::move(options), soon());
}

}  // namespace volchain::qmp
