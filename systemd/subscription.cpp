// SPDX-License-Identifier: MIT
#include "systemd/subscription.h"

#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "base/text.h"

namespace volchain::bus {
namespace {

/// Shared with a running call of it, which may destroy the subscription.
struct Handler : std::enable_shared_from_this<Handler> {
    explicit Handler(std::function<void(Message)> wanted) : function(std::move(wanted)) {}
    std::function<void(Message)> function;
};

int handle(sd_bus_message* message, void* handler, sd_bus_error*) noexcept {
    const auto kept = static_cast<Handler*>(handler)->shared_from_this();
    try {
        kept->function(Message::share(message));
    } catch (...) {
        log().warning("handling of the D-Bus message {} failed: {}", Message::share(message).name(),
                      to_error(std::current_exception()).what());
    }
    return 0;
}

}  // namespace

struct Subscription::State {
    State(std::shared_ptr<Pump> the_pump, std::function<void(Message)> function)
        : pump(the_pump), handler(std::make_shared<Handler>(std::move(function))) {}
    State(const State&) = delete;
    State& operator=(const State&) = delete;
    ~State() {
        match.reset();  // which sends a message
        if (const auto still = pump.lock()) still->kick();
    }

    std::weak_ptr<Pump> pump;
    std::shared_ptr<Handler> handler;
    Slot match;
    Slot query;
};

Subscription::Subscription() noexcept = default;
Subscription::Subscription(Subscription&& other) noexcept = default;
Subscription& Subscription::operator=(Subscription&& other) noexcept = default;
Subscription::~Subscription() = default;

Subscription::Subscription(std::shared_ptr<Pump> pump, const std::string& rule,
                           std::function<void(Message)> handler)
    : state_(std::make_unique<State>(pump, std::move(handler))) {
    sd_bus_slot* slot = nullptr;
    const int result =
        sd_bus_add_match_async(pump->bus(), &slot, rule.c_str(), handle, nullptr, state_->handler.get());
    pump->kick();
    if (result < 0) throw_bus_failure(result, fmt::format("cannot subscribe to {}", quote(rule)));
    state_->match.reset(slot);
}

void Subscription::ask(const Message& request) {
    const auto pump = state_->pump.lock();
    if (!pump) throw Error(ErrorCode::unreachable, "the connection to the message bus was closed");
    sd_bus_slot* slot = nullptr;
    const int result =
        sd_bus_call_async(pump->bus(), &slot, request.get(), handle, state_->handler.get(), no_bus_timeout);
    pump->kick();
    if (result < 0) throw_bus_failure(result, fmt::format("cannot call {}", request.name()));
    state_->query.reset(slot);
}

}  // namespace volchain::bus
