// SPDX-License-Identifier: MIT
#include "qmp/event_queue.h"

#include <algorithm>

#include "base/text.h"

namespace volchain::qmp {
namespace {

constexpr std::size_t max_unread = 4096;

}  // namespace

EventQueue::EventQueue(std::shared_ptr<Session> session, std::vector<std::string> names)
    : session_(std::move(session)), names_(std::move(names)) {
    subscription_ =
        session_->subscribe([this](const Event& event) { take(event); }, [this] { changed_.notify(); });
}

void EventQueue::take(const Event& event) {
    if (std::find(names_.begin(), names_.end(), event.name) == names_.end()) return;
    if (events_.size() >= max_unread) {
        overflowed_ = true;
        return;
    }
    events_.push_back(event);
    changed_.notify();
}

async::Task<Event> EventQueue::next(async::Deadline deadline, std::string what) {
    while (events_.empty() && !overflowed_ && !session_->closed()) co_await changed_.wait(deadline, what);
    if (!events_.empty()) {
        Event event = std::move(events_.front());
        events_.pop_front();
        co_return event;
    }
    if (overflowed_)
        throw Error(ErrorCode::qemu_failed, "{} sent more than {} events while nobody looked at them",
                    quote(session_->name()), max_unread);
    const Error lost = co_await session_->loss();
    throw lost.during(fmt::format("waiting for {}", what));
}

}  // namespace volchain::qmp
