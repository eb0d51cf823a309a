// SPDX-License-Identifier: MIT
//
// Reading from a real storage daemon that serves an image.
#include "qmp/nbd_client.h"

#include <algorithm>
#include <csignal>

#include "qmp/node.h"
#include "qmp/unix_socket.h"
#include "support.h"

namespace volchain::qmp::nbd_client_test {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t kib = 1024;
constexpr std::size_t mib = 1024 * kib;

/// A storage daemon that serves one image as "content", and a socket that it listens on.
struct Server {
    TemporaryDirectory directory;
    std::shared_ptr<StorageDaemon> daemon;

    [[nodiscard]] UniqueFd connect() const { return connect_unix(directory / "nbd.sock"); }
};

Task<std::shared_ptr<Server>> serve(std::string format, std::string image) {
    auto server = std::make_shared<Server>();
    const UniqueFd listening = listen_unix(server->directory / "nbd.sock", 0600);
    StorageDaemonOptions options(server->directory / "qsd.sock");
    options.inherit.push_back(listening.get());
    options.arguments.emplace_back("--nbd-server");
    options.arguments.push_back(fmt::format("addr.type=fd,addr.str={}", listening.get()));
    server->daemon = co_await StorageDaemon::start(std::move(options), soon());
    const NodeOptions plain;
    Json file = file_node("file", image, Access::read_only, plain);
    (void)co_await server->daemon->session()->execute("blockdev-add", std::move(file), soon());
    Json node = format_node("node", format, "file", Access::read_only, plain);
    (void)co_await server->daemon->session()->execute("blockdev-add", std::move(node), soon());
    Json request;
    request["type"] = "nbd";
    request["id"] = "content";
    request["name"] = "content";
    request["node-name"] = "node";
    (void)co_await server->daemon->session()->execute("block-export-add", std::move(request), soon());
    co_return server;
}

std::vector<std::byte> read(NbdClient& client, std::uint64_t offset, std::size_t length) {
    std::vector<std::byte> buffer(length);
    client.begin_read(buffer, offset);
    client.end_read();
    return buffer;
}

bool all_are(const std::vector<std::byte>& bytes, unsigned value) {
    return std::all_of(bytes.begin(), bytes.end(), [value](std::byte b) { return b == std::byte(value); });
}

Error failure(const std::function<void()>& work) {
    try {
        work();
    } catch (const Error& error) {
        return error;
    }
    ADD_FAILURE() << "no error was thrown";
    return {ErrorCode::internal, std::string("none")};
}

std::string image_in(const TemporaryDirectory& directory) {
    const std::string image = directory / "image";
    create_image(image, "qcow2", "6G");
    run_program({"qemu-io", "-f", "qcow2", "-c", "write -P 1 1M 64k", "-c", "write -z 2M 1M", "-c",
                 "write -P 2 5G 128k", image});
    return image;
}

Task<> reads() {
    const TemporaryDirectory directory;
    const auto server = co_await serve("qcow2", image_in(directory));
    NbdClient client(server->connect(), "content", 10s);
    EXPECT_EQ(client.size(), 6 * 1024 * mib);
    EXPECT_TRUE(all_are(read(client, mib, 64 * kib), 1));
    EXPECT_TRUE(all_are(read(client, 2 * mib, mib), 0));
    EXPECT_TRUE(all_are(read(client, 5 * 1024 * mib + 512, 127 * kib), 2));

    const auto extents = client.extents(mib, 8 * 1024 * mib);  // more than can be asked for at once
    EXPECT_EQ(extents.at(0).length, 64 * kib);
    EXPECT_FALSE(extents.at(0).zero);
    EXPECT_TRUE(extents.at(1).zero);
    std::uint64_t told = 0;
    for (const NbdClient::Extent& extent : extents) told += extent.length;
    EXPECT_LE(told, 1024 * mib);
    const auto part = client.extents(5 * 1024 * mib + kib, kib);
    EXPECT_EQ(part.size(), 1U);
    EXPECT_EQ(part.front().length, kib);
    EXPECT_FALSE(part.front().zero);
    EXPECT_TRUE(co_await server->daemon->stop(soon())) << "with a client";
}
TEST(NbdClient, ReadsAndKnowsZeroes) {
    async::run(reads());
}

Task<> goes_wrong() {
    const TemporaryDirectory directory;
    const auto server = co_await serve("qcow2", image_in(directory));
    const Error unknown = failure([&] { const NbdClient client(server->connect(), "other", 10s); });
    EXPECT_EQ(unknown.code(), ErrorCode::qemu_failed);
    EXPECT_NE(std::string_view(unknown.what()).find("other"), std::string_view::npos) << unknown.what();

    NbdClient behind(server->connect(), "content", 10s);
    const Error end = failure([&] { (void)read(behind, behind.size(), 512); });
    EXPECT_EQ(end.code(), ErrorCode::qemu_failed) << end.what();
    (void)co_await server->daemon->stop(soon());
}
TEST(NbdClient, SaysWhatGoesWrong) {
    async::run(goes_wrong());
}

Task<> patience_ends() {
    const TemporaryDirectory directory;
    const auto server = co_await serve("qcow2", image_in(directory));
    NbdClient client(server->connect(), "content", 300ms);
    ::kill(server->daemon->pid(), SIGSTOP);
    const Error silent = failure([&] { (void)read(client, 0, 512); });
    EXPECT_EQ(silent.code(), ErrorCode::timeout) << silent.what();
    const Error no_greeting = failure([&] { const NbdClient other(server->connect(), "content", 300ms); });
    EXPECT_EQ(no_greeting.code(), ErrorCode::timeout) << no_greeting.what();
    ::kill(server->daemon->pid(), SIGCONT);
    NbdClient again(server->connect(), "content", 10s);
    ::kill(server->daemon->pid(), SIGKILL);
    co_await server->daemon->wait_ended(soon());
    const Error gone = failure([&] { (void)read(again, 0, 512); });
    EXPECT_EQ(gone.code(), ErrorCode::qemu_failed) << gone.what();
}
TEST(NbdClient, WaitsForNoServerForLong) {
    async::run(patience_ends());
}

}  // namespace
}  // namespace volchain::qmp::nbd_client_test
