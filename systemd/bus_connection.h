// SPDX-License-Identifier: MIT
//
// Connection: the process's connection to the message bus, an sd_bus driven by the event loop. The daemon
// serves its objects over it (objects.h), the client calls over it (proxy.h). Calls are coroutines with a
// deadline; messages that come in are handled in the order in which they came, a few a turn, so that a busy
// bus does not starve the rest.
//
// A bus that goes away is never silent: all pending calls fail with Unreachable and the owner is told once.
// There is no reconnecting: objects, names and matches are gone with the connection, so the daemon ends and
// is started afresh. The connection is destroyed after everything that was registered with it, but calls may
// still be pending then.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "async/task.h"
#include "systemd/bus_pump.h"
#include "systemd/message.h"
#include "systemd/subscription.h"

namespace volchain::bus {

class Connection {
  public:
    /// Connects to the system bus, or to the one in DBUS_SYSTEM_BUS_ADDRESS, and waits (blocking; it is the
    /// first thing that a program does) until it has let us in. Throws Unreachable.
    [[nodiscard]] static Connection open_system(async::Executor executor);

    Connection(const Connection&) = delete;
    Connection& operator=(const Connection&) = delete;
    /// Fails the pending calls. What has not left this process is dropped: flush() first.
    ~Connection();

    /// Called once, from the event loop, when the bus has gone. Whoever sets none gets an error in the log.
    void on_lost(std::function<void(std::string reason)> handler);
    /// ":1.42"
    [[nodiscard]] std::string unique_name() const;
    /// Of the bus itself: unique names mean something on one bus only, from its start to its end.
    [[nodiscard]] std::string bus_id() const;
    [[nodiscard]] const async::Executor& executor() const noexcept;

    /// Whether the calls made here allow the callee to ask the user for a password (volchainctl does).
    void allow_interaction(bool allow);

    /// New messages, to be filled and given to call() or send().
    [[nodiscard]] Message method_call(const std::string& destination, const std::string& path,
                                      const std::string& interface, const std::string& member) const;
    [[nodiscard]] Message signal(const std::string& path, const std::string& interface,
                                 const std::string& member) const;

    /// Sends a method call and returns its reply. An error reply is thrown (bus_error.h); Timeout at the
    /// deadline, Unreachable when the bus has gone.
    async::Task<Message> call(Message request, async::Deadline deadline);
    /// Sends a signal, a reply, or a call whose reply nobody wants. Throws Unreachable when the bus has gone.
    void send(const Message& message);
    /// Returns when all that was sent has left this process: before it ends.
    async::Task<> flush(async::Deadline deadline);

    /// Becomes the owner of a well-known name; Busy where another process owns it.
    async::Task<> request_name(std::string name, async::Deadline deadline);

    /// Calls `handler` for every message that the match rule (in the syntax of the D-Bus specification)
    /// selects. What is called after this is answered after the match is in place. A bus that refuses the
    /// match closes the connection, so nobody waits in vain.
    [[nodiscard]] Subscription subscribe(const std::string& rule, std::function<void(Message)> handler);
    /// Calls `handler` with the name's owner ("" for none), first as it is now and then whenever it changes.
    [[nodiscard]] Subscription watch_name(const std::string& name,
                                          std::function<void(std::string owner)> handler);

    /// For registering with sd-bus. After sending past send(), call kick().
    [[nodiscard]] sd_bus* native() const noexcept;
    /// Lets the event loop look at the connection again: sd-bus waits for other things after each thing sent.
    void kick();

  private:
    explicit Connection(std::shared_ptr<Pump> pump);

    std::shared_ptr<Pump> pump_;
};

}  // namespace volchain::bus
