// SPDX-License-Identifier: MIT
//
// Proxy: one interface of one foreign object, for calling it. A value; it keeps no state of the object.
//
//     bus::Proxy disk(connection, "org.volchain1", path, "org.volchain1.Disk");
//     auto call = disk.call<bus::ObjectPath>("Resize", deadline, size, bus::Dict());
//     const bus::ObjectPath job = co_await std::move(call);
//
// Several results come as a tuple: call<std::tuple<std::string, bus::Dict>>(...).
#pragma once

#include <functional>
#include <string>
#include <utility>

#include "systemd/bus_connection.h"
#include "systemd/variant.h"

namespace volchain::bus {

namespace detail {

template <typename Result>
async::Task<Result> read_answer(async::Task<Message> answer) {
    // In a template clang-tidy takes the parts of a co_await for several uses.
    const Message reply = co_await std::move(answer);  // NOLINT(bugprone-use-after-move)
    if constexpr (is_argument_list<Result>)
        co_return read_body<Result>(reply);
    else if constexpr (!std::is_void_v<Result>)
        co_return std::get<0>(read_body<std::tuple<Result>>(reply));
}

}  // namespace detail

class Proxy {
  public:
    Proxy(Connection& connection, std::string destination, std::string path, std::string interface)
        : connection_(&connection),
          destination_(std::move(destination)),
          path_(std::move(path)),
          interface_(std::move(interface)) {}

    /// Calls a method. The reply must be of the type that Result has; void takes any. The arguments are
    /// marshalled here and now, the call is sent when the task is awaited.
    template <typename Result = void, typename... Arguments>
    [[nodiscard]] async::Task<Result> call(const std::string& member, async::Deadline deadline,
                                           const Arguments&... arguments) const {
        Message request = connection_->method_call(destination_, path_, interface_, member);
        (append(request, arguments), ...);
        return detail::read_answer<Result>(connection_->call(std::move(request), deadline));
    }

    /// A property; Variant for one of unknown type.
    template <typename T>
    [[nodiscard]] async::Task<T> property(std::string name, async::Deadline deadline) const {
        const Proxy properties(*connection_, destination_, path_, "org.freedesktop.DBus.Properties");
        return property_value<T>(properties.call<Variant>("Get", deadline, interface_, name), name);
    }

    [[nodiscard]] async::Task<Dict> properties(async::Deadline deadline) const {
        const Proxy properties(*connection_, destination_, path_, "org.freedesktop.DBus.Properties");
        return properties.call<Dict>("GetAll", deadline, interface_);
    }

    /// Calls `handler` for each such signal of the object.
    Subscription subscribe(const std::string& member, std::function<void(Message)> handler) const {
        return connection_->subscribe(
            fmt::format("type='signal',sender='{}',path='{}',interface='{}',member='{}'", destination_, path_,
                        interface_, member),
            std::move(handler));
    }

  private:
    template <typename T>
    [[nodiscard]] static async::Task<T> property_value(async::Task<Variant> answer, std::string name) {
        Variant value = co_await std::move(answer);
        if constexpr (std::same_as<T, Variant>) {
            co_return value;
        } else {
            auto typed = value.get<T>();
            if (!typed)
                throw Error(ErrorCode::invalid_argument,
                            "the D-Bus property {} is of type '{}', expected '{}'", name, value.signature(),
                            signature<T>.view());
            co_return *std::move(typed);
        }
    }

    Connection* connection_;
    std::string destination_;
    std::string path_;
    std::string interface_;
};

}  // namespace volchain::bus
