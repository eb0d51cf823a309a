// SPDX-License-Identifier: MIT
#include "systemd/bus_connection.h"

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "base/text.h"
#include "systemd/bus_error.h"
#include "systemd/marshal.h"

namespace volchain::bus {
namespace {

constexpr const char* bus_driver = "org.freedesktop.DBus";
constexpr const char* bus_driver_path = "/org/freedesktop/DBus";
constexpr std::chrono::seconds connect_limit{25};

std::uint64_t usec(async::Clock::duration duration) {
    return static_cast<std::uint64_t>(
        std::chrono::duration_cast<std::chrono::microseconds>(duration).count());
}

[[noreturn]] void throw_not_connected(int result) {
    throw Error(ErrorCode::unreachable, system_error(-result, "cannot connect to the system bus").what());
}

/// Nothing is thrown through sd-bus.
int take_reply(sd_bus_message* reply, void* pending, sd_bus_error*) noexcept {
    try {
        (void)static_cast<PendingCall*>(pending)->reply.deliver(Message::share(reply));
    } catch (...) {
        log().error("a D-Bus reply was lost: {}", to_error(std::current_exception()).what());
    }
    return 1;
}

/// A place among the pending calls, which fail when the bus goes.
class Pending {
  public:
    Pending(std::shared_ptr<Pump> pump, PendingCall& call)
        : pump_(std::move(pump)), place_(pump_->pending().insert(pump_->pending().end(), &call)) {}
    Pending(const Pending&) = delete;
    Pending& operator=(const Pending&) = delete;
    ~Pending() { pump_->pending().erase(place_); }

  private:
    std::shared_ptr<Pump> pump_;
    Pump::PendingCalls::iterator place_;
};

}  // namespace

Connection Connection::open_system(async::Executor executor) {
    sd_bus* opened = nullptr;
    if (const int result = sd_bus_open_system(&opened); result < 0) throw_not_connected(result);
    OpenBus bus(opened);
    const async::Deadline deadline = async::after(connect_limit);
    while (sd_bus_is_ready(bus.get()) == 0) {
        if (const int result = sd_bus_process(bus.get(), nullptr); result < 0)
            throw_not_connected(result);
        else if (result > 0)
            continue;
        const async::Deadline now = async::Clock::now();
        if (now >= deadline) throw_not_connected(-ETIMEDOUT);
        const int result = sd_bus_wait(bus.get(), usec(deadline - now));
        if (result < 0 && result != -EINTR) throw_not_connected(result);
    }
    return Connection(std::make_shared<Pump>(std::move(executor), std::move(bus)));
}

Connection::Connection(std::shared_ptr<Pump> pump) : pump_(std::move(pump)) {
    pump_->kick();
}
Connection::~Connection() {
    pump_->close("the connection to the message bus was closed");
}

void Connection::on_lost(std::function<void(std::string reason)> handler) {
    pump_->on_lost(std::move(handler));
}

std::string Connection::unique_name() const {
    const char* name = nullptr;
    return sd_bus_get_unique_name(native(), &name) < 0 ? std::string() : std::string(name);
}

std::string Connection::bus_id() const {
    sd_id128_t id{};
    if (sd_bus_get_bus_id(native(), &id) < 0) return {};
    char text[SD_ID128_STRING_MAX];
    return sd_id128_to_string(id, text);
}

const async::Executor& Connection::executor() const noexcept {
    return pump_->executor();
}
void Connection::allow_interaction(bool allow) {
    (void)sd_bus_set_allow_interactive_authorization(native(), allow ? 1 : 0);
}
sd_bus* Connection::native() const noexcept {
    return pump_->bus();
}
void Connection::kick() {
    pump_->kick();
}

Message Connection::method_call(const std::string& destination, const std::string& path,
                                const std::string& interface, const std::string& member) const {
    sd_bus_message* message = nullptr;
    const int result = sd_bus_message_new_method_call(native(), &message, destination.c_str(), path.c_str(),
                                                      interface.c_str(), member.c_str());
    if (result < 0)
        throw system_error(-result, fmt::format("cannot compose a call of {}.{}", interface, member));
    return Message(message);
}

Message Connection::signal(const std::string& path, const std::string& interface,
                           const std::string& member) const {
    sd_bus_message* message = nullptr;
    const int result =
        sd_bus_message_new_signal(native(), &message, path.c_str(), interface.c_str(), member.c_str());
    if (result < 0)
        throw system_error(-result, fmt::format("cannot compose the signal {}.{}", interface, member));
    return Message(message);
}

void Connection::send(const Message& message) {
    const int result = sd_bus_send(native(), message.get(), nullptr);
    pump_->kick();
    if (result < 0) throw_bus_failure(result, fmt::format("cannot send {}", message.name()));
}

async::Task<Message> Connection::call(Message request, async::Deadline deadline) {
    const std::shared_ptr<Pump> pump = pump_;  // outlives the connection where that goes first
    const std::string what = fmt::format("the answer of {} to {}", request.destination(), request.name());
    PendingCall pending;
    sd_bus_slot* slot = nullptr;
    // The deadline is kept here, by OneShot, for every call alike.
    const int result =
        sd_bus_call_async(pump->bus(), &slot, request.get(), take_reply, &pending, no_bus_timeout);
    pump->kick();
    if (result < 0) throw_bus_failure(result, fmt::format("cannot call {}", request.name()));
    pending.slot.reset(slot);
    const Pending listed(pump, pending);
    Message reply = co_await pending.reply.wait(deadline, what);
    if (reply.is_error()) throw_error_reply(reply);
    co_return reply;
}

async::Task<> Connection::flush(async::Deadline deadline) {
    const std::shared_ptr<Pump> pump = pump_;
    while (pump->has_output())
        co_await pump->drained().wait(deadline, "the message bus to take our messages");
}

async::Task<> Connection::request_name(std::string name, async::Deadline deadline) {
    constexpr std::uint32_t do_not_queue = 4;
    constexpr std::uint32_t primary_owner = 1;
    constexpr std::uint32_t already_owner = 4;
    Message request = method_call(bus_driver, bus_driver_path, bus_driver, "RequestName");
    append(request, name);
    append(request, do_not_queue);
    const Message reply = co_await call(std::move(request), deadline);
    const auto [answer] = read_body<std::tuple<std::uint32_t>>(reply);
    if (answer != primary_owner && answer != already_owner)
        throw Error(ErrorCode::busy,
                    "the bus name {} is owned by another process: is the daemon running already?", name);
}

Subscription Connection::subscribe(const std::string& rule, std::function<void(Message)> handler) {
    return {pump_, rule, std::move(handler)};
}

Subscription Connection::watch_name(const std::string& name, std::function<void(std::string owner)> handler) {
    if (sd_bus_service_name_is_valid(name.c_str()) <= 0)
        throw Error(ErrorCode::invalid_argument, "{} is not a bus name", quote(name));
    auto told = [handler = std::move(handler)](const Message& message) {
        using Changed = std::tuple<std::string, std::string, std::string>;  // name, old owner, new owner
        if (message.signature() == body_signature<Changed>.view() && !message.is_error())
            handler(std::get<2>(read_body<Changed>(message)));
        else if (!message.is_error())  // the answer of GetNameOwner
            handler(std::get<0>(read_body<std::tuple<std::string>>(message)));
        else if (sd_bus_message_is_method_error(message.get(), SD_BUS_ERROR_NAME_HAS_NO_OWNER) > 0)
            handler("");
        // Any other error: the bus itself has gone, which is told elsewhere.
    };
    const std::string rule = fmt::format(
        "type='signal',sender='{0}',path='{1}',interface='{0}',member='NameOwnerChanged',arg0='{2}'",
        bus_driver, bus_driver_path, name);
    Subscription subscription = subscribe(rule, std::move(told));
    Message query = method_call(bus_driver, bus_driver_path, bus_driver, "GetNameOwner");
    append(query, name);
    subscription.ask(query);
    return subscription;
}

}  // namespace volchain::bus
