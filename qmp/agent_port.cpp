// SPDX-License-Identifier: MIT
#include "qmp/agent_port.h"

#include "base/log.h"
#include "base/text.h"

namespace volchain::qmp {
namespace {

/// The longest answer that is used here is that of guest-info, with some 10 KiB. A JSON text takes many times
/// its length in memory, and how long this one is the guest decides.
constexpr std::size_t max_line = std::size_t{1} << 20;
/// For one exchange, with all that may have to be dropped first: what a former client left unread, too.
constexpr std::size_t max_bytes = std::size_t{16} << 20;
/// {"return": 1234567890}, with whatever an agent puts around it.
constexpr std::size_t max_sync_answer = 1024;

Reply parse_reply(std::string_view line) {
    const Json document = parse_json(line, "answer of the guest agent", ErrorCode::agent_unavailable);
    const JsonReader message(document, "answer of the guest agent", ErrorCode::agent_unavailable);
    Reply reply;
    if (const auto error = message.find("error"))
        reply.refusal = parse_refusal(*error);
    else if (document.contains("return"))
        reply.value = document["return"];
    else
        message.fail("is no answer");
    return reply;
}

bool answers_sync(const AgentStream::Line& line, std::uint64_t id) {
    if (!line.delimited || line.overlong || line.text.size() > max_sync_answer) return false;
    try {
        const Reply reply = parse_reply(line.text);
        return reply.value.is_number_unsigned() && reply.value.get<std::uint64_t>() == id;
    } catch (const Error&) {
        return false;  // junk, of which there may be any amount
    }
}

}  // namespace

/// The exchange's time on the port: while it lasts, the port reads.
class AgentPort::Current {
  public:
    Current(AgentPort& port, Exchange& exchange) : port_(&port) {
        port.exchange_ = &exchange;
        port.wire_->resume();
    }
    Current(const Current&) = delete;
    Current& operator=(const Current&) = delete;
    ~Current() {
        port_->exchange_ = nullptr;
        port_->wire_->pause();
    }

  private:
    AgentPort* port_;
};

AgentPort::AgentPort(std::shared_ptr<Wire> wire) : wire_(std::move(wire)), stream_(max_line) {}

std::shared_ptr<AgentPort> AgentPort::make(const async::Executor& executor, UniqueFd connected) {
    std::shared_ptr<AgentPort> port(new AgentPort(Wire::make(executor, std::move(connected))));
    port->wire_->pause();
    port->wire_->start(port);
    return port;
}

AgentPort::State AgentPort::state() noexcept {
    // Where the port of the guest is not open, QEMU reads nothing and our messages would pile up.
    if (wire_->closed() || !wire_->drained()) return State::useless;
    const Wire::Waiting waiting = wire_->waiting();
    if (waiting == Wire::Waiting::end) return State::useless;
    return stray_ || stream_.mid_line() || waiting == Wire::Waiting::bytes ? State::stray : State::fresh;
}

async::Task<AgentPort::Outcome> AgentPort::exchange(std::shared_ptr<AgentPort> port, std::uint64_t ticket,
                                                    std::string message, std::optional<std::uint64_t> sync_id,
                                                    async::Deadline deadline) {
    Exchange exchange;
    exchange.ticket = ticket;
    exchange.sync_id = sync_id;
    const Current current(*port, exchange);
    port->wire_->send(ticket, std::move(message));
    if (port->wire_->closed()) port->deliver(Outcome("the connection is closed"));
    Outcome outcome = co_await exchange.outcome.wait(deadline, "the guest agent to answer");
    outcome.times = exchange.times;
    co_return outcome;
}

void AgentPort::close() {
    wire_->close();
    deliver(Outcome("the connection was closed from this side"));
}

void AgentPort::deliver(Outcome outcome) {
    if (exchange_ != nullptr) (void)exchange_->outcome.deliver(std::move(outcome));
}

void AgentPort::on_bytes(std::string_view bytes) {
    stream_.feed(bytes);
    if (exchange_ != nullptr && !exchange_->outcome.done()) {
        exchange_->times.answered = async::Clock::now();
        exchange_->bytes += bytes.size();
    }
    while (const auto line = stream_.next()) take(*line);
    if (exchange_ == nullptr || exchange_->outcome.done() || exchange_->bytes <= max_bytes) return;
    deliver(Outcome(fmt::format("it sent more than {} bytes", max_bytes)));
    close();
}

void AgentPort::take(const AgentStream::Line& line) {
    if (exchange_ == nullptr || exchange_->outcome.done()) {
        stray_ = true;
        return;
    }
    if (exchange_->sync_id) {
        if (!answers_sync(line, *exchange_->sync_id)) return;
        stray_ = false;
        return deliver(Outcome(Reply()));
    }
    // The answer to a synchronisation that was given up, of an agent that answers twice.
    if (line.delimited) return;
    if (line.overlong) return deliver(Outcome(fmt::format("its answer is longer than {} bytes", max_line)));
    try {
        deliver(Outcome(parse_reply(line.text)));
    } catch (const Error& error) {
        deliver(Outcome(std::string(error.what())));
    }
}

void AgentPort::on_written(std::uint64_t ticket, async::Clock::time_point when) {
    if (exchange_ != nullptr && exchange_->ticket == ticket) exchange_->times.sent = when;
}

void AgentPort::on_lost(const std::string& reason) {
    deliver(Outcome("the connection is lost: " + reason));
}

}  // namespace volchain::qmp
