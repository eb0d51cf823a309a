// SPDX-License-Identifier: MIT
#include "qmp/session_core.h"

#include <utility>

#include "base/log.h"
#include "base/text.h"
#include "qmp/schema.h"

namespace volchain::qmp {
namespace {

/// More than QEMU ever says: query-named-block-nodes of a chain of 60 layers takes 100 KiB, and 10 MiB were
/// seen in the field where it is asked without `flat`.
constexpr std::size_t max_message = std::size_t{64} << 20;
/// QEMU itself takes one command at a time. So many unanswered ones mean that it hangs.
constexpr std::size_t max_unanswered = 64;
/// A process that dies closes its socket before it can be seen to have ended.
constexpr auto time_to_die = std::chrono::milliseconds(500);
constexpr auto time_to_write = std::chrono::seconds(1);

}  // namespace

/// A request's place among those that wait for an answer.
class SessionCore::Registration {
  public:
    Registration(SessionCore& core, std::uint64_t id, Request& request) : core_(&core), id_(id) {
        core.requests_.emplace(id, &request);
    }
    Registration(const Registration&) = delete;
    Registration& operator=(const Registration&) = delete;
    ~Registration() { core_->forget(id_); }

  private:
    SessionCore* core_;
    std::uint64_t id_;
};

SessionCore::SessionCore(const async::Executor& executor, UniqueFd connected, std::string session_name)
    : name(std::move(session_name)), wire_(Wire::make(executor, std::move(connected))), lines_(max_message) {}

// --- greeting and capabilities -----------------------------------------------------------------------------

async::Task<> SessionCore::await_greeting(std::shared_ptr<SessionCore> core, async::Deadline deadline) {
    using Reason = ConnectError::Reason;
    bool greeted = false;
    bool timed_out = false;
    try {
        greeted = co_await core->greeted_.wait(deadline, "the greeting");
    } catch (const Error& error) {
        if (error.code() != ErrorCode::timeout) throw;
        timed_out = true;
    }
    if (timed_out)
        throw ConnectError(
            Reason::held_by_another_client,
            fmt::format("monitor {} takes connections but does not greet: another client holds this "
                        "monitor, which serves one at a time; give the daemon one of its own",
                        quote(core->name)));
    if (greeted) co_return;
    const std::string why = co_await why_lost(core);
    throw ConnectError(
        core->not_qmp_ ? Reason::not_qmp : Reason::lost,
        fmt::format("monitor {} ended the connection before its greeting: {}", quote(core->name), why));
}

async::Task<> SessionCore::negotiate(std::shared_ptr<SessionCore> core, async::Deadline deadline) {
    core->wire_->start(core);
    co_await await_greeting(core, deadline);
    // The process is held before the first command: that it answers this one shows that the pid was still its
    // own.
    const async::Executor executor = co_await async::asio::this_coro::executor;
    if (const auto& sender = core->wire_->sender()) core->peer = Peer::watch(executor, *sender);
    (void)co_await ask(core, "qmp_capabilities", Json::object(), deadline);
}

// --- commands ----------------------------------------------------------------------------------------------

std::string SessionCore::request_line(const std::string& command, Json arguments, std::uint64_t id) const {
    if (!arguments.is_object())
        throw Error(ErrorCode::internal, "arguments of {} are not an object", command);
    Json request;
    request["execute"] = command;
    request["id"] = id;
    if (!arguments.empty()) request["arguments"] = std::move(arguments);
    try {
        return request.dump() + "\n";
    } catch (const Json::exception& error) {
        throw Error(ErrorCode::invalid_argument, "{} cannot be sent to {}, its arguments are not UTF-8: {}",
                    command, quote(name), error.what());
    }
}

async::Task<Answer> SessionCore::ask(std::shared_ptr<SessionCore> core, std::string command, Json arguments,
                                     async::Deadline deadline, UniqueFd passed) {
    Outcome outcome;
    Request request;
    if (!core->closed) {
        if (core->requests_.size() >= max_unanswered)
            throw Error(ErrorCode::busy, "{} is not sent to {}: QEMU has left {} commands unanswered",
                        command, quote(core->name), core->requests_.size());
        const std::uint64_t id = core->next_request_++;
        std::string line = core->request_line(command, std::move(arguments), id);
        const Registration registration(*core, id, request);
        core->wire_->send(id, std::move(line), std::move(passed));
        outcome = co_await request.outcome.wait(deadline,
                                                fmt::format("{} to answer {}", quote(core->name), command));
    }
    if (!outcome) {
        const Error lost = co_await loss(core);
        throw lost.during(fmt::format("no answer to {}", command));
    }
    if (outcome->refusal) throw CommandError(command, *std::move(outcome->refusal), request.times);
    co_return Answer(std::move(outcome->value), request.times);
}

void SessionCore::forget(std::uint64_t id) noexcept {
    const auto found = requests_.find(id);
    if (found == requests_.end()) return;
    if (closed || wire_->withdraw(id))
        requests_.erase(found);
    else
        found->second = nullptr;
}

// --- loss --------------------------------------------------------------------------------------------------

async::Task<std::string> SessionCore::why_lost(std::shared_ptr<SessionCore> core) {
    const std::string reason = core->closed.value_or("it is connected");
    if (core->closed_here) co_return reason;
    if (const auto explain = core->explain) {
        auto words = explain();
        const std::string explanation = co_await std::move(words);
        co_return fmt::format("{}; {}", reason, explanation);
    }
    const auto peer = core->peer;
    if (!peer) co_return reason;
    const bool ended = co_await peer->wait_ended(async::after(time_to_die));
    co_return fmt::format("{}; process {} {}", reason, peer->pid(), ended ? "has ended" : "still runs");
}

async::Task<Error> SessionCore::loss(std::shared_ptr<SessionCore> core) {
    const std::string why = co_await why_lost(core);
    co_return Error(ErrorCode::unreachable, "the connection to monitor {} is lost: {}", quote(core->name),
                    why);
}

async::Task<> SessionCore::wait_closed(std::shared_ptr<SessionCore> core, async::Deadline deadline) {
    while (!core->closed)
        co_await core->closed_changed_.wait(deadline,
                                            fmt::format("the end of the session with {}", quote(core->name)));
}

void SessionCore::end(const std::string& reason) {
    if (closed) return;
    closed = reason;
    wire_->close();
    for (const auto& [id, request] : std::exchange(requests_, {}))
        if (request != nullptr) (void)request->outcome.deliver(std::nullopt);
    (void)greeted_.deliver(false);
    closed_changed_.notify();
    written_.notify();
    tell_subscribers([](const Subscriber& subscriber) {
        if (subscriber.on_closed) subscriber.on_closed();
    });
}

void SessionCore::end_here(const std::string& reason) {
    closed_here = closed_here || !closed;
    end(reason);
}

async::Task<> SessionCore::close(std::shared_ptr<SessionCore> core) {
    const async::Deadline deadline = async::after(time_to_write);
    try {
        while (!core->closed && !core->wire_->drained())
            co_await core->written_.wait(deadline, "a message to be sent");
    } catch (const Error& error) {
        log().debug("closing the session with {}: {}", quote(core->name), error.what());
    }
    core->end_here("it was closed from this side");
}

// --- what the wire tells -----------------------------------------------------------------------------------

void SessionCore::on_bytes(std::string_view bytes) {
    read_at_ = async::Clock::now();
    lines_.feed(bytes);
    try {
        while (!closed) {
            const auto line = lines_.next();
            if (!line) break;
            Message message = parse_message(*line);
            std::visit([this](auto& m) { take(m); }, message);
        }
    } catch (const Error& error) {
        not_qmp_ = true;
        end(error.what());
    }
    if (lines_.overlong()) end(fmt::format("it sent a line of more than {} bytes", max_message));
}

void SessionCore::on_written(std::uint64_t ticket, async::Clock::time_point when) {
    const auto found = requests_.find(ticket);
    if (found != requests_.end() && found->second != nullptr) found->second->times.sent = when;
    written_.notify();
}

void SessionCore::on_lost(const std::string& reason) {
    end(reason);
}

void SessionCore::take(const Greeting& received) {
    greeting = received;
    (void)greeted_.deliver(true);
}

void SessionCore::take(const Event& event) {
    if (event.name == "SHUTDOWN") shutdown_reason = event.read().string_or("reason", "not told");
    tell_subscribers([&event](const Subscriber& subscriber) {
        if (subscriber.on_event) subscriber.on_event(event);
    });
}

void SessionCore::take(Reply& reply) {
    const auto found = reply.id ? requests_.find(*reply.id) : requests_.end();
    if (found == requests_.end()) {
        // A refusal without an id is QEMU's answer to a line that it could not read.
        log().warning("{} answered what was not asked: {}", quote(name),
                      reply.refusal ? quote(reply.refusal->description) : "a result");
        return;
    }
    Request* const request = found->second;
    requests_.erase(found);
    if (request == nullptr) {
        log().debug("{}: late answer dropped", quote(name));
        return;
    }
    request->times.answered = read_at_;
    (void)request->outcome.deliver(std::move(reply));
}

// --- subscribers -------------------------------------------------------------------------------------------

Subscription SessionCore::subscribe(Session::EventCallback on_event, Session::ClosedCallback on_closed) {
    const std::uint64_t number = next_subscriber_++;
    subscribers_.emplace(number,
                         std::make_shared<Subscriber>(Subscriber{std::move(on_event), std::move(on_closed)}));
    return {weak_from_this(), number};
}

void SessionCore::unsubscribe(std::uint64_t number) noexcept {
    subscribers_.erase(number);
}

/// A callback may subscribe, unsubscribe itself and others, and end the session.
template <typename Call>
void SessionCore::tell_subscribers(const Call& call) {
    const std::uint64_t newcomers = next_subscriber_;
    for (std::uint64_t last = 0;;) {
        const auto next = subscribers_.upper_bound(last);
        if (next == subscribers_.end() || next->first >= newcomers) return;
        last = next->first;
        const std::shared_ptr<Subscriber> keep = next->second;
        try {
            call(*keep);
        } catch (const std::exception& error) {
            log().warning("{}: an event callback failed: {}", quote(name), error.what());
        }
    }
}

// --- schema ------------------------------------------------------------------------------------------------

async::Task<std::shared_ptr<const Schema>> SessionCore::schema(std::shared_ptr<SessionCore> core,
                                                               async::Deadline deadline) {
    if (core->schema_) co_return core->schema_;
    const auto turn = co_await core->schema_turn_.lock(deadline, "the turn to read QEMU's schema");
    if (!core->schema_) {
        const Answer answer = co_await ask(core, "query-qmp-schema", Json::object(), deadline);
        core->schema_ = std::make_shared<const Schema>(answer.value);
    }
    co_return core->schema_;
}

}  // namespace volchain::qmp
