// SPDX-License-Identifier: MIT
#include "async/mutex.h"

namespace volchain::async {

Task<Mutex::Guard> Mutex::lock(Deadline deadline, std::string what) {
    if (!locked_) {
        locked_ = true;
        co_return Guard(*this);
    }
    Turn turn;
    const auto place = queue_.insert(queue_.end(), &turn);
    std::exception_ptr failure;
    try {
        (void)co_await turn.wait(deadline, std::move(what));
    } catch (...) {
        failure = std::current_exception();
    }
    if (failure) {
        // The turn may have come in the same moment as the end of the wait: then it goes to the next.
        if (turn.done())
            unlock();
        else
            queue_.erase(place);
        std::rethrow_exception(failure);
    }
    co_return Guard(*this);
}

void Mutex::unlock() {
    if (queue_.empty()) {
        locked_ = false;
        return;
    }
    Turn* const next = queue_.front();
    queue_.pop_front();
    (void)next->deliver(true);
}

}  // namespace volchain::async
