// SPDX-License-Identifier: MIT
//
// EventQueue: for a coroutine that waits for events. It collects those of the given names from the moment it
// is made, so make it before the command whose consequences it is to see. It belongs to that coroutine.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "async/condition.h"
#include "qmp/session.h"

namespace volchain::qmp {

class EventQueue {
  public:
    EventQueue(std::shared_ptr<Session> session, std::vector<std::string> names);
    EventQueue(const EventQueue&) = delete;
    EventQueue& operator=(const EventQueue&) = delete;

    /// The next event; what came before a loss of the session is still given out. Throws Timeout at the
    /// deadline (with `what` as what was waited for), Unreachable when the session is lost, QemuFailed where
    /// so many events were left unread that some had to be dropped.
    async::Task<Event> next(async::Deadline deadline, std::string what);

  private:
    void take(const Event& event);

    std::shared_ptr<Session> session_;
    std::vector<std::string> names_;
    std::deque<Event> events_;
    bool overflowed_ = false;
    async::Condition changed_;
    Subscription subscription_;
};

}  // namespace volchain::qmp
