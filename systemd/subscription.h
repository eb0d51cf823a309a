// SPDX-License-Identifier: MIT
//
// Subscription: a match on the bus and the function that gets the messages, for as long as this lives. Made
// by Connection::subscribe() and watch_name(). May be destroyed by that function itself, and may outlive the
// connection.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "systemd/bus_pump.h"
#include "systemd/message.h"

namespace volchain::bus {

class [[nodiscard]] Subscription {
  public:
    /// To none.
    Subscription() noexcept;
    Subscription(std::shared_ptr<Pump> pump, const std::string& rule, std::function<void(Message)> handler);
    Subscription(Subscription&& other) noexcept;
    Subscription& operator=(Subscription&& other) noexcept;
    ~Subscription();

    /// Sends a call whose reply the handler gets, too.
    void ask(const Message& request);

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace volchain::bus
