// SPDX-License-Identifier: MIT
//
// What tests on a bus have in common: the bus driver as a peer, and looking at the failures of calls.
#pragma once

#include <gtest/gtest.h>

#include <exception>
#include <string>
#include <type_traits>
#include <utility>

#include "async/task.h"
#include "systemd/bus_error.h"
#include "systemd/proxy.h"

namespace volchain::bus {

[[nodiscard]] inline Proxy driver_of(Connection& connection) {
    return {connection, "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus"};
}

/// The failure of a task that ought to fail.
template <typename T>
[[nodiscard]] async::Task<std::exception_ptr> failure_of(async::Task<T> task) {
    std::exception_ptr failure;
    try {
        if constexpr (std::is_void_v<T>)
            co_await std::move(task);
        else
            (void)co_await std::move(task);
    } catch (...) {
        failure = std::current_exception();
    }
    EXPECT_NE(failure, nullptr) << "nothing was thrown";
    co_return failure;
}

[[nodiscard]] inline ErrorCode code_of(const std::exception_ptr& failure) {
    return failure ? to_error(failure).code() : ErrorCode::internal;
}

[[nodiscard]] inline std::string text_of(const std::exception_ptr& failure) {
    return failure ? to_error(failure).what() : "";
}

/// The D-Bus name of an error that is none of ours.
[[nodiscard]] inline std::string remote_name_of(const std::exception_ptr& failure) {
    try {
        if (failure) std::rethrow_exception(failure);
        return "none";
    } catch (const RemoteError& error) {
        return error.error_name();
    } catch (const std::exception& error) {
        return std::string("not from the bus: ") + error.what();
    }
}

}  // namespace volchain::bus
