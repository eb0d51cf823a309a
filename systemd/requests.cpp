// SPDX-License-Identifier: MIT
#include "systemd/requests.h"

#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "systemd/bus_error.h"

namespace volchain::bus {

Requests::Admission::Admission(Requests& requests, std::string sender, bool prompt)
    : requests_(&requests), sender_(std::move(sender)), prompt_(prompt) {
    Load& load = requests_->load_of_[sender_];
    ++(prompt_ ? load.prompt : load.waiting);
    if (prompt_) ++requests_->prompt_running_;
}

Requests::Admission::Admission(Admission&& other) noexcept
    : requests_(std::exchange(other.requests_, nullptr)),
      sender_(std::move(other.sender_)),
      prompt_(other.prompt_) {}

Requests::Admission::~Admission() {
    if (requests_ == nullptr) return;
    if (prompt_) --requests_->prompt_running_;
    const auto place = requests_->load_of_.find(sender_);
    Load& load = place->second;
    --(prompt_ ? load.prompt : load.waiting);
    if (load.prompt + load.waiting == 0) requests_->load_of_.erase(place);
}

Requests::Requests(Connection& connection, Gate& gate, Limits limits, std::function<void()> before_reply)
    : connection_(connection),
      gate_(gate),
      limits_(limits),
      before_reply_(std::move(before_reply)),
      tasks_(connection.executor()) {}

bool Requests::start(const InterfaceTable::Method& method, void* object,
                     const std::function<bool(Uuid)>* exists, Call call) {
    const bool prompt = method.reply == Reply::prompt;
    const auto place = load_of_.find(call.sender());
    if (place != load_of_.end()) {
        if (prompt && (place->second.prompt >= limits_.per_sender || prompt_running_ >= limits_.total))
            return false;
        if (!prompt && place->second.waiting >= limits_.waiting_per_sender) return false;
    }
    Admission admission(*this, call.sender(), prompt);
    std::string what = call.str();
    tasks_.spawn(serve(method, object, exists, std::move(call), std::move(admission)), std::move(what));
    return true;
}

async::Task<> Requests::serve(const InterfaceTable::Method& method, void* object,
                              const std::function<bool(Uuid)>* exists, Call call, Admission) {
    std::exception_ptr failure;
    try {
        co_await gate_.authorize(call);
        if (exists != nullptr && !(*exists)(call.object()))
            throw Error(ErrorCode::not_found, "{} is gone", call.path());
        const Message result = co_await method.run(object, call);
        reply(call, result);
    } catch (...) {
        failure = std::current_exception();
    }
    if (failure) reply_failure(call, failure);
}

/// A change that could not be told must not turn what was done into a failure, or cost the caller its answer.
void Requests::tell_changes() noexcept {
    try {
        before_reply_();
    } catch (...) {
        log().error("changes were not told on the bus: {}", to_error(std::current_exception()).what());
    }
}

void Requests::reply(const Call& call, const Message& result) {
    tell_changes();
    if (sd_bus_message_get_expect_reply(call.message().get()) > 0) connection_.send(result);
}

void Requests::reply_failure(const Call& call, const std::exception_ptr& failure) noexcept {
    tell_changes();
    try {
        const Error error = to_error(failure);
        if (error.code() == ErrorCode::internal) log().warning("{} failed: {}", call.str(), error.what());
        if (sd_bus_message_get_expect_reply(call.message().get()) <= 0) return;
        const ErrorReply named = error_reply(failure);
        const sd_bus_error wire{named.name.c_str(), named.text.c_str(), 0};
        sd_bus_message* message = nullptr;
        if (const int result = sd_bus_message_new_method_error(call.message().get(), &message, &wire);
            result < 0)
            throw system_error(-result, "cannot compose an error reply");
        connection_.send(Message(message));
    } catch (...) {
        // Mostly: the bus has gone, which its owner has been told.
        log().debug("no reply to {}: {}", call.str(), to_error(std::current_exception()).what());
    }
}

}  // namespace volchain::bus
