// SPDX-License-Identifier: MIT
//
// with_deadline(): a limit for an operation that has none of its own (a socket read, the end of a process).
// The operation is cancelled at the deadline and has ended when Timeout is thrown.
#pragma once

#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <exception>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>

#include "async/task.h"
#include "base/error.h"

namespace volchain::async {

/// How an operation ended: for void, a value stands for "well".
template <typename T>
struct Outcome {
    std::optional<std::conditional_t<std::is_void_v<T>, std::monostate, T>> value;
    std::exception_ptr failure;
};

/// Awaits `task` and keeps how it ended, so that it always ends well itself.
template <typename T>
Task<> keep_outcome(Task<T> task, Outcome<T>& outcome) {
    try {
        if constexpr (std::is_void_v<T>) {
            co_await std::move(task);
            outcome.value.emplace();
        } else {
            outcome.value.emplace(co_await std::move(task));
        }
    } catch (...) {
        outcome.failure = std::current_exception();
    }
}

/// The value of `operation`, what it throws, or none where `limit` ended first; the other one is cancelled and has ended
/// when this returns.
template <typename T>
Task<decltype(Outcome<T>::value)> first_of(Task<T> operation, Task<> limit) {
    // Of two awaitables, `||` waits for the first that ends well: a failure must count as an end.
    using asio::experimental::awaitable_operators::operator||;
    Outcome<T> outcome;
    auto either = keep_outcome(std::move(operation), outcome) || std::move(limit);
    const auto first = co_await std::move(either);
    if (first.index() == 1) co_return std::nullopt;
    if (outcome.failure) std::rethrow_exception(outcome.failure);
    co_return std::move(outcome.value);
}

template <typename T>
Task<T> with_deadline(Task<T> operation, Deadline deadline, std::string what) {
    auto value = co_await first_of(std::move(operation), sleep_until(deadline));
    if (!value) throw Error(ErrorCode::timeout, "timed out waiting for {}", what);
    if constexpr (!std::is_void_v<T>) co_return *std::move(value);
}

}  // namespace volchain::async
