// SPDX-License-Identifier: MIT
#include "qmp/guest_agent.h"

#include <sys/random.h>

#include <algorithm>
#include <cerrno>

#include "base/text.h"
#include "qmp/agent_port.h"

namespace volchain::qmp {
namespace {

/// No text of the guest's is longer than this in what is kept of it.
constexpr std::size_t max_text = 200;

std::string request_line(const std::string& command, Json arguments) {
    if (!arguments.is_object())
        throw Error(ErrorCode::internal, "arguments of {} are not an object", command);
    Json request;
    request["execute"] = command;
    if (!arguments.empty()) request["arguments"] = std::move(arguments);
    try {
        return request.dump() + "\n";
    } catch (const Json::exception& error) {
        throw Error(ErrorCode::invalid_argument,
                    "{} cannot be sent to a guest agent, its arguments are not UTF-8: {}", command,
                    error.what());
    }
}

/// Not to be guessed by a guest, and small enough for every JSON reader.
std::uint64_t random_id() {
    std::uint32_t id = 0;
    if (::getrandom(&id, sizeof id, 0) != sizeof id) throw system_error(errno, "cannot get random bytes");
    return id >> 1;
}

ErrorCode code_of(const std::string& command, const Refusal& refusal) {
    if (refusal.error_class == "CommandNotFound" || refusal.error_class == "CommandDisabled" ||
        refusal.description.find("has been disabled") != std::string::npos)
        return ErrorCode::unsupported;
    return command.starts_with("guest-fsfreeze-") ? ErrorCode::quiesce_failed : ErrorCode::agent_unavailable;
}

JsonReader read(const Answer& answer, std::string_view command) {
    return {answer.value, fmt::format("the guest agent's answer to {}", command),
            ErrorCode::agent_unavailable};
}

}  // namespace

AgentError::AgentError(const std::string& command, Refusal refusal, CallTimes times)
    : Error(code_of(command, refusal), "the guest agent refused {}: {}", command, quote(refusal.description)),
      refusal_(std::move(refusal)),
      times_(times) {}

GuestAgent::GuestAgent(std::string path, async::Clock::duration sync_limit)
    : path_(std::move(path)), sync_limit_(sync_limit) {}

GuestAgent::~GuestAgent() {
    close();
}

Error GuestAgent::unavailable(std::string_view why) const {
    return {ErrorCode::agent_unavailable, "guest agent at {}: {}", quote(path_), why};
}

void GuestAgent::close() {
    if (port_) port_->close();
    port_.reset();
}

// --- connecting and synchronising --------------------------------------------------------------------------

async::Task<async::Mutex::Guard> GuestAgent::take_turn(async::Deadline deadline) {
    try {
        co_return co_await turn_.lock(deadline, "the guest agent");
    } catch (const Error& error) {
        // Not Timeout, which would mean that the command may have been carried out.
        if (error.code() != ErrorCode::timeout) throw;
        throw Error(ErrorCode::busy, "guest agent at {}: another command has been under way all the time",
                    quote(path_));
    }
}

/// A port that is connected and synchronised. It may be closed as soon as this one looks away, but it is there.
async::Task<std::shared_ptr<AgentPort>> GuestAgent::prepare(async::Deadline deadline) {
    const auto state = port_ ? port_->state() : AgentPort::State::useless;
    if (state != AgentPort::State::fresh) in_sync_ = false;
    if (state == AgentPort::State::useless) {
        close();
        const async::Executor executor = co_await async::asio::this_coro::executor;
        try {
            port_ = AgentPort::make(executor, connect_unix(path_));
        } catch (const ConnectError& error) {
            throw unavailable(error.what());
        }
    }
    const auto port = port_;
    if (!in_sync_) co_await synchronise(port, deadline);
    co_return port;
}

async::Task<> GuestAgent::synchronise(std::shared_ptr<AgentPort> port, async::Deadline deadline) {
    const std::uint64_t id = random_id();
    Json arguments;
    arguments["id"] = id;
    // 0xff makes the agent drop what it has read of a command that never ended.
    std::string message = "\xff" + request_line("guest-sync-delimited", std::move(arguments));
    const async::Deadline limit = std::min(deadline, async::after(sync_limit_));
    std::string wrong;
    in_sync_ = false;
    try {
        const AgentPort::Outcome outcome =
            co_await AgentPort::exchange(port, next_ticket_++, std::move(message), id, limit);
        wrong = outcome.wrong;
    } catch (const Error& error) {
        if (error.code() != ErrorCode::timeout) throw;
        wrong = "does not answer; it does not run in the guest or hangs, or another client holds its socket";
    }
    if (!wrong.empty()) throw unavailable(wrong);
    in_sync_ = true;
}

async::Task<> GuestAgent::sync(async::Deadline deadline) {
    const auto turn = co_await take_turn(deadline);
    in_sync_ = false;
    (void)co_await prepare(deadline);
}

// --- commands ----------------------------------------------------------------------------------------------

async::Task<Answer> GuestAgent::execute(std::string command, Json arguments, async::Deadline deadline) {
    std::string message = request_line(command, std::move(arguments));
    const auto turn = co_await take_turn(deadline);
    const auto port = co_await prepare(deadline);
    // Until the answer is there: whatever ends the wait, what comes later is not taken for another command's
    // answer.
    in_sync_ = false;
    AgentPort::Outcome outcome =
        co_await AgentPort::exchange(port, next_ticket_++, std::move(message), std::nullopt, deadline);
    if (!outcome.wrong.empty()) throw unavailable(fmt::format("no answer to {}: {}", command, outcome.wrong));
    in_sync_ = true;
    if (outcome.reply.refusal) throw AgentError(command, *std::move(outcome.reply.refusal), outcome.times);
    co_return Answer(std::move(outcome.reply.value), outcome.times);
}

async::Task<> GuestAgent::ping(async::Deadline deadline) {
    (void)co_await execute("guest-ping", Json::object(), deadline);
}

async::Task<AgentInfo> GuestAgent::info(async::Deadline deadline) {
    const Answer answer = co_await execute("guest-info", Json::object(), deadline);
    const JsonReader reader = read(answer, "guest-info");
    AgentInfo info;
    info.version = clipped(reader.string_or("version", ""), max_text);
    for (const JsonReader& command : reader.at("supported_commands").elements())
        if (command.boolean_or("enabled", false))
            info.commands.insert(clipped(command.at("name").string(), max_text));
    co_return info;
}

async::Task<OsInfo> GuestAgent::get_osinfo(async::Deadline deadline) {
    const Answer answer = co_await execute("guest-get-osinfo", Json::object(), deadline);
    const JsonReader reader = read(answer, "guest-get-osinfo");
    OsInfo info;
    info.id = clipped(reader.string_or("id", ""), max_text);
    info.pretty_name = clipped(reader.string_or("pretty-name", ""), max_text);
    info.kernel_release = clipped(reader.string_or("kernel-release", ""), max_text);
    co_return info;
}

async::Task<FreezeStatus> GuestAgent::fsfreeze_status(async::Deadline deadline) {
    const Answer answer = co_await execute("guest-fsfreeze-status", Json::object(), deadline);
    const JsonReader reader = read(answer, "guest-fsfreeze-status");
    if (reader.string() == "frozen") co_return FreezeStatus::frozen;
    if (reader.string() != "thawed") reader.fail("expected 'frozen' or 'thawed'");
    co_return FreezeStatus::thawed;
}

async::Task<FreezeAnswer> GuestAgent::count_of(std::string command, async::Deadline deadline) {
    const Answer answer = co_await execute(command, Json::object(), deadline);
    FreezeAnswer counted;
    counted.file_systems = read(answer, command).u64();
    counted.times = answer.times;
    co_return counted;
}

async::Task<FreezeAnswer> GuestAgent::fsfreeze_freeze(async::Deadline deadline) {
    return count_of("guest-fsfreeze-freeze", deadline);
}

async::Task<FreezeAnswer> GuestAgent::fsfreeze_thaw(async::Deadline deadline) {
    return count_of("guest-fsfreeze-thaw", deadline);
}

}  // namespace volchain::qmp
