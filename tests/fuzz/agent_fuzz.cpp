// SPDX-License-Identifier: MIT
//
// Feeds what a guest could send to the reader of its agent's port. It must not matter in what pieces it
// comes, and it is never taken for an answer that it is not: a synchronisation ends only with its own number
// behind 0xff.
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "async/deadline.h"
#include "async/loop.h"
#include "base/error.h"
#include "qmp/agent_port.h"
#include "qmp/agent_stream.h"

namespace volchain::qmp {
namespace {

constexpr std::size_t max_line = 64;
constexpr std::uint64_t sync_id = 7;

void require(bool condition) {
    if (!condition) std::abort();
}

// --- lines -------------------------------------------------------------------------------------------------

std::vector<std::string> lines_of(std::string_view bytes, std::size_t piece) {
    AgentStream stream(max_line);
    std::vector<std::string> lines;
    while (!bytes.empty()) {
        stream.feed(bytes.substr(0, piece));
        bytes.remove_prefix(std::min(piece, bytes.size()));
        while (const auto line = stream.next()) {
            require(line->text.size() <= max_line && line->overlong == line->text.empty());
            require(line->text.find_first_of(std::string_view("\n\xff", 2)) == std::string_view::npos);
            lines.push_back((line->delimited ? "D" : "") + std::string(line->text));
        }
    }
    return lines;
}

// --- answers -----------------------------------------------------------------------------------------------

async::Task<> feed(std::shared_ptr<AgentPort> port, std::string bytes, std::size_t piece) {
    for (std::size_t at = 0; at < bytes.size(); at += piece)
        port->on_bytes(std::string_view(bytes).substr(at, piece));
    port->on_lost("the end of the input");
    co_return;
}

async::Task<> exchange(std::shared_ptr<AgentPort> port, std::optional<std::uint64_t> id, std::string& wrong) {
    const AgentPort::Outcome outcome =
        co_await AgentPort::exchange(port, 1, "x\n", id, async::after(std::chrono::seconds(10)));
    wrong = outcome.wrong;
}

/// What an exchange makes of the bytes: empty where it takes them for an answer.
async::Task<> outcome_of(std::string bytes, std::size_t piece, std::optional<std::uint64_t> id,
                         std::string& wrong) {
    using async::asio::experimental::awaitable_operators::operator&&;
    std::array<int, 2> ends{};
    require(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) == 0);
    const UniqueFd other(ends[1]);
    const async::Executor executor = co_await async::asio::this_coro::executor;
    const auto port = AgentPort::make(executor, UniqueFd(ends[0]));
    auto both = exchange(port, id, wrong) && feed(port, std::move(bytes), piece);
    co_await std::move(both);
    port->close();
}

std::string outcome(const std::string& bytes, std::size_t piece, std::optional<std::uint64_t> id) {
    std::string wrong;
    async::Loop loop;
    loop.run_main(outcome_of(bytes, piece, id, wrong));
    return wrong;
}

}  // namespace
}  // namespace volchain::qmp

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace volchain::qmp;
    const std::string bytes(reinterpret_cast<const char*>(data), size);
    const std::vector<std::string> lines = lines_of(bytes, size + 1);
    require(lines == lines_of(bytes, 1));
    require(lines == lines_of(bytes, 5));

    const std::string synchronised = outcome(bytes, size + 1, sync_id);
    require(synchronised == outcome(bytes, 3, sync_id));
    if (synchronised.empty())
        require(bytes.find('\xff') != std::string::npos && bytes.find("\"return\"") != std::string::npos);
    const std::string answered = outcome(bytes, size + 1, std::nullopt);
    require(answered == outcome(bytes, 3, std::nullopt));
    return 0;
}
