// SPDX-License-Identifier: MIT
#include "systemd/polkit.h"

#include <tuple>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "systemd/bus_error.h"
#include "systemd/variant.h"

namespace volchain::bus {
namespace {

constexpr const char* polkit_name = "org.freedesktop.PolicyKit1";
constexpr const char* polkit_path = "/org/freedesktop/PolicyKit1/Authority";
constexpr const char* polkit_interface = "org.freedesktop.PolicyKit1.Authority";

/// CheckAuthorizationFlags
constexpr std::uint32_t allow_user_interaction = 1;

}  // namespace

/// A question under way that polkit may put to a person. Withdrawn where nobody waits for the answer any
/// more.
struct Polkit::Question {
    Question(Connection& bus, std::string cancellation_id)
        : connection(bus), id(std::move(cancellation_id)) {}
    Question(const Question&) = delete;
    Question& operator=(const Question&) = delete;
    ~Question() {
        if (!answered) withdraw();
    }

    void watch(const std::string& caller) {
        caller_watch = connection.watch_name(caller, [this](const std::string& owner) {
            caller_left = owner.empty();
            if (caller_left) withdraw();
        });
    }

    /// Polkit then answers the question with an error.
    void withdraw() noexcept {
        try {
            Message cancel = connection.method_call(polkit_name, polkit_path, polkit_interface,
                                                    "CancelCheckAuthorization");
            append(cancel, id);
            connection.send(cancel);
        } catch (...) {
            log().debug("a question to polkit was not withdrawn: {}",
                        to_error(std::current_exception()).what());
        }
    }

    Connection& connection;
    std::string id;
    bool answered = false;
    bool caller_left = false;
    Subscription caller_watch;
};

async::Task<> Polkit::check(Call call, std::string action, Details details) {
    if (co_await call.sender_uid() == 0) co_return;
    const std::string id = fmt::format("volchain-{}", ++last_question_);
    Dict subject;
    subject.emplace("name", call.sender());
    Message question =
        connection_.method_call(polkit_name, polkit_path, polkit_interface, "CheckAuthorization");
    append(question, std::make_pair(std::string("system-bus-name"), std::move(subject)));
    append(question, action);
    append(question, send_details_ ? details : Details());
    append(question, call.interactive() ? allow_user_interaction : std::uint32_t{0});
    append(question, id);

    const Result result = co_await ask(call, action, std::move(question), id);
    const auto& [authorized, challenge, shown] = result;
    if (authorized) co_return;
    if (challenge && !call.interactive())
        throw Error(ErrorCode::interaction_required,
                    "{} needs authorization: call again in a way that allows the question for a password",
                    action);
    throw Error(ErrorCode::access_denied, "not authorized for {}", action);
}

async::Task<Polkit::Result> Polkit::ask(Call call, std::string action, Message message,
                                        std::string cancellation_id) {
    Question question(connection_, std::move(cancellation_id));
    if (call.interactive()) question.watch(call.sender());
    const auto limit = call.interactive() ? limits_.interaction : limits_.answer;
    try {
        const Message answer = co_await connection_.call(std::move(message), async::after(limit));
        question.answered = true;
        Result result = std::get<0>(read_body<std::tuple<Result>>(answer));
        failing_ = false;
        co_return result;
    } catch (const Error& error) {
        if (error.code() == ErrorCode::cancelled) throw;  // we are being stopped
        const bool no_person = call.interactive() && error.code() == ErrorCode::timeout;
        // Each caller is told; the log is told once, or strangers could fill it.
        if (!question.caller_left && !no_person && !std::exchange(failing_, true))
            log().warning("polkit does not decide, so only root may do anything: {}", error.what());
        throw Error(ErrorCode::access_denied, "not authorized for {}: polkit did not decide: {}", action,
                    error.what());
    }
}

}  // namespace volchain::bus
