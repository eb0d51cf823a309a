// SPDX-License-Identifier: MIT
//
// Pump: drives an sd_bus from the event loop; the inside of a Connection, which owns it. The handlers that it
// leaves in the event loop hold it weakly, so they find out when the connection has gone.
#pragma once

#include <systemd/sd-bus.h>

#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <string>

#include "async/condition.h"
#include "async/one_shot.h"
#include "async/task.h"
#include "systemd/message.h"

namespace volchain::bus {

struct SlotUnref {
    void operator()(sd_bus_slot* slot) const noexcept { sd_bus_slot_unref(slot); }
};
/// Something registered with sd-bus, for as long as this lives.
using Slot = std::unique_ptr<sd_bus_slot, SlotUnref>;

struct CloseBus {
    void operator()(sd_bus* bus) const noexcept { sd_bus_close_unref(bus); }
};
using OpenBus = std::unique_ptr<sd_bus, CloseBus>;

/// For calls whose deadline is kept elsewhere.
inline constexpr std::uint64_t no_bus_timeout = UINT64_MAX;

/// What a negative result of sd-bus is thrown as: Unreachable where the bus has gone.
[[noreturn]] void throw_bus_failure(int result, std::string_view activity);

/// A call that waits for its reply. It lives in the frame of its coroutine, which takes the slot along when
/// it ends, however it ends: after that sd-bus knows nothing of it.
struct PendingCall {
    async::OneShot<Message> reply;
    Slot slot;
};

class Pump : public std::enable_shared_from_this<Pump> {
  public:
    Pump(async::Executor executor, OpenBus bus);
    Pump(const Pump&) = delete;
    Pump& operator=(const Pump&) = delete;

    /// Has the event loop look at the bus again. sd-bus says what it waits for only when asked, and that
    /// changes with everything sent: input, output while its queue is not empty, and the time of its own
    /// timeouts. So it is asked again after each thing sent and each turn.
    void kick();
    /// Fails the pending calls and closes the bus; where the bus is closed already, nothing.
    void close(const std::string& reason);

    [[nodiscard]] sd_bus* bus() const noexcept { return bus_.get(); }
    [[nodiscard]] const async::Executor& executor() const noexcept { return executor_; }
    [[nodiscard]] bool closed() const noexcept { return closed_; }
    /// Whether something that was sent has not left this process yet.
    [[nodiscard]] bool has_output() const noexcept;
    /// Notified when it has, and when the bus is closed.
    [[nodiscard]] async::Condition& drained() noexcept { return drained_; }

    /// Told once, when the bus has gone.
    void on_lost(std::function<void(std::string)> handler) { on_lost_ = std::move(handler); }

    using PendingCalls = std::list<PendingCall*>;
    [[nodiscard]] PendingCalls& pending() noexcept { return pending_; }

  private:
    void turn();
    void arm();
    void wait_for(boost::asio::posix::stream_descriptor::wait_type direction, bool& waiting);
    void wait_until(std::uint64_t absolute_usec);
    void lost(int result);
    void tell_owner();

    async::Executor executor_;
    OpenBus bus_;
    boost::asio::posix::stream_descriptor descriptor_;  // a duplicate: Asio and sd-bus each close their own
    boost::asio::steady_timer timer_;
    bool turn_posted_ = false;
    bool waits_for_input_ = false;
    bool waits_for_output_ = false;
    bool closed_ = false;
    std::string lost_reason_;  // not empty: the bus has gone and the owner has not been told
    std::function<void(std::string)> on_lost_;
    PendingCalls pending_;
    async::Condition drained_;
};

}  // namespace volchain::bus
