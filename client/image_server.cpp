// SPDX-License-Identifier: MIT
#include "client/image_server.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "base/error.h"
#include "base/json.h"
#include "base/text.h"
#include "client/program_path.h"

namespace volchain::client {
namespace {

constexpr auto end_limit = std::chrono::minutes(2);
constexpr auto look_limit = std::chrono::seconds(2);
constexpr int backlog = 16;

sockaddr_un address_of(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path)
        throw Error(ErrorCode::invalid_argument, "{} is too long for a socket: set TMPDIR to a shorter one",
                    quote(path));
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    return address;
}

UniqueFd new_socket() {
    UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!socket) throw system_error(errno, "cannot make a socket");
    return socket;
}

/// Layer by layer, each as a node of its own; the name of the topmost.
std::vector<std::string> server_arguments(const std::vector<std::string>& files, bool writable,
                                          int listening) {
    std::vector<std::string> words;
    for (std::size_t layer = 0; layer < files.size(); ++layer) {
        const bool written = writable && layer + 1 == files.size();
        Json node{{"driver", "qcow2"}, {"node-name", fmt::format("layer{}", layer)}};
        node["read-only"] = !written;
        node["file"] = Json{{"driver", "file"}, {"filename", files[layer]}, {"read-only", !written}};
        node["backing"] = nullptr;
        if (layer > 0) node["backing"] = fmt::format("layer{}", layer - 1);
        if (written) node["discard"] = "unmap";
        words.insert(words.end(), {"--blockdev", node.dump()});
    }
    const Json shown{{"type", "nbd"},
                     {"id", "image"},
                     {"node-name", fmt::format("layer{}", files.size() - 1)},
                     {"name", ImageServer::export_name},
                     {"writable", writable},
                     {"allocation-depth", true}};
    words.insert(words.end(), {"--nbd-server", fmt::format("addr.type=fd,addr.str={}", listening)});
    words.insert(words.end(), {"--export", shown.dump()});
    return words;
}

}  // namespace

/// A listening socket in a directory that only this user can enter. Nothing of it is left when it goes.
class ImageServer::Socket {
  public:
    Socket() {
        const char* const temporary = std::getenv("TMPDIR");
        directory_ = std::string(temporary == nullptr || *temporary != '/' ? "/tmp" : temporary) +
                     "/volchainctl-XXXXXX";
        if (::mkdtemp(directory_.data()) == nullptr)
            throw system_error(errno, "cannot make a directory " + quote(directory_));
        path_ = directory_ + "/nbd";
        try {
            listening_ = new_socket();
            const sockaddr_un address = address_of(path_);
            if (::bind(listening_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0 ||
                ::listen(listening_.get(), backlog) < 0)
                throw system_error(errno, "cannot listen at " + quote(path_));
        } catch (...) {
            remove();
            throw;
        }
    }
    Socket(const Socket&) = delete;
    Socket& operator=(const Socket&) = delete;
    ~Socket() { remove(); }

    [[nodiscard]] int listening() const noexcept { return listening_.get(); }
    [[nodiscard]] UniqueFd connect() const {
        UniqueFd socket = new_socket();
        const sockaddr_un address = address_of(path_);
        if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0)
            throw system_error(errno, "cannot connect to a storage daemon");
        return socket;
    }

  private:
    void remove() noexcept {
        (void)::unlink(path_.c_str());
        (void)::rmdir(directory_.c_str());
    }

    std::string directory_;
    std::string path_;
    UniqueFd listening_;
};

ImageServer::ImageServer(std::unique_ptr<Socket> socket, async::Process process, std::string what)
    : socket_(std::move(socket)), process_(std::move(process)), what_(std::move(what)) {}

ImageServer::~ImageServer() = default;

async::Task<std::unique_ptr<ImageServer>> ImageServer::start(std::vector<std::string> files, bool writable,
                                                             std::string what) {
    const async::Executor executor = co_await async::asio::this_coro::executor;
    auto socket = std::make_unique<Socket>();
    std::vector<std::string> words = server_arguments(files, writable, socket->listening());
    words.insert(words.begin(), program_path("qemu-storage-daemon", storage_daemon_package));
    async::Command command(std::move(words));
    command.inherit.push_back(socket->listening());
    for (std::size_t layer = 0; layer < files.size(); ++layer)
        command.files.push_back({files[layer], writable && layer + 1 == files.size()});
    async::Process process = async::Process::start(executor, command);
    co_return std::unique_ptr<ImageServer>(
        new ImageServer(std::move(socket), std::move(process), std::move(what)));
}

UniqueFd ImageServer::connect() const {
    return socket_->connect();
}

void ImageServer::close_listening() {
    socket_.reset();
}

async::Task<std::string> ImageServer::last_words() {
    std::exception_ptr runs_on;
    async::ExitStatus status;
    co_await async::keep_result(process_.wait(async::after(look_limit)), status, runs_on);
    if (runs_on) co_return std::string();
    // It has ended: all that it wrote is in the pipe.
    std::array<char, 4096> buffer{};
    const ssize_t got = ::read(process_.errors().native_handle(), buffer.data(), buffer.size());
    std::string text(buffer.data(), got > 0 ? static_cast<std::size_t>(got) : 0);
    while (!text.empty() && text.back() == '\n') text.pop_back();
    co_return text.empty() ? status.str() : clipped(text);
}

async::Task<> ImageServer::stop() {
    close_listening();
    const async::ExitStatus status = co_await process_.terminate(async::after(end_limit));
    if (status.ok()) co_return;
    const std::string words = co_await last_words();
    throw Error(ErrorCode::qemu_failed, "the storage daemon with {} did not end in order: {}", what_, words);
}

}  // namespace volchain::client
