// SPDX-License-Identifier: MIT
#include "systemd/call.h"

#include <chrono>
#include <cstdint>
#include <optional>
#include <utility>

#include "base/error.h"
#include "systemd/bus_error.h"
#include "systemd/marshal.h"
#include "systemd/proxy.h"

namespace volchain::bus {
namespace {

/// The bus driver answers at once or not at all.
constexpr std::chrono::seconds bus_driver_limit{25};

}  // namespace

struct Call::State {
    State(Connection& bus, Message call, Uuid id)
        : connection(&bus),
          message(std::move(call)),
          sender(message.sender()),
          path(message.path()),
          interface(message.interface()),
          member(message.member()),
          object(id) {}

    Connection* connection;
    Message message;
    std::string sender;
    std::string path;
    std::string interface;
    std::string member;
    Uuid object;
    std::optional<uid_t> uid;
};

Call::Call(Connection& connection, Message message, Uuid object)
    : state_(std::make_shared<State>(connection, std::move(message), object)) {}

const std::string& Call::sender() const noexcept {
    return state_->sender;
}
const std::string& Call::path() const noexcept {
    return state_->path;
}
const std::string& Call::interface() const noexcept {
    return state_->interface;
}
const std::string& Call::member() const noexcept {
    return state_->member;
}
Uuid Call::object() const noexcept {
    return state_->object;
}
const Message& Call::message() const noexcept {
    return state_->message;
}

std::string Call::str() const {
    return fmt::format("{}.{} on {}", interface(), member(), path());
}

bool Call::interactive() const noexcept {
    return sd_bus_message_get_allow_interactive_authorization(state_->message.get()) > 0;
}

async::Task<uid_t> Call::sender_uid() {
    const std::shared_ptr<State> state = state_;
    if (state->uid) co_return *state->uid;
    const Proxy driver(*state->connection, "org.freedesktop.DBus", "/org/freedesktop/DBus",
                       "org.freedesktop.DBus");
    auto answer =
        driver.call<std::uint32_t>("GetConnectionUnixUser", async::after(bus_driver_limit), state->sender);
    std::string gone;
    try {
        state->uid = co_await std::move(answer);
    } catch (const RemoteError& error) {
        gone = error.what();
    }
    if (!gone.empty())
        throw Error(ErrorCode::access_denied, "cannot tell who calls {}: {}", state->member, gone);
    co_return state->uid.value();
}

Message Call::make_reply() const {
    sd_bus_message* reply = nullptr;
    const int result = sd_bus_message_new_method_return(state_->message.get(), &reply);
    if (result < 0) throw system_error(-result, fmt::format("cannot reply to {}", str()));
    return Message(reply);
}

}  // namespace volchain::bus
