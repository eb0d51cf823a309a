// SPDX-License-Identifier: MIT
//
// OneShot<T>: one result that one coroutine waits for and somebody else delivers (an answer to a request, the
// end of a process). It lives where the waiter lives; the deliverer must be told when it goes.
#pragma once

#include <exception>
#include <optional>
#include <string>
#include <utility>

#include "async/condition.h"

namespace volchain::async {

template <typename T>
class OneShot {
  public:
    [[nodiscard]] bool done() const noexcept { return value_.has_value() || failure_ != nullptr; }

    /// The first delivery counts; later ones are ignored and say so with false.
    bool deliver(T value) {
        if (done()) return false;
        value_ = std::move(value);
        delivered_.notify();
        return true;
    }
    bool fail(std::exception_ptr failure) {
        if (done()) return false;
        failure_ = std::move(failure);
        delivered_.notify();
        return true;
    }

    /// The result, or the failure as an exception; Timeout at the deadline. Once.
    Task<T> wait(Deadline deadline, std::string what) {
        if (!done()) co_await delivered_.wait(deadline, std::move(what));
        if (failure_) std::rethrow_exception(failure_);
        co_return std::move(*value_);
    }

  private:
    std::optional<T> value_;
    std::exception_ptr failure_;
    Condition delivered_;
};

}  // namespace volchain::async
