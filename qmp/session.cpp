// SPDX-License-Identifier: MIT
#include "qmp/session.h"

#include "qmp/session_core.h"

namespace volchain::qmp {
namespace {

async::Task<Json> value_of(async::Task<Answer> asked) {
    Answer answer = co_await std::move(asked);
    co_return std::move(answer.value);
}

}  // namespace

// --- Subscription ------------------------------------------------------------------------------------------

Subscription::Subscription(Subscription&& other) noexcept
    : core_(std::exchange(other.core_, {})), number_(std::exchange(other.number_, 0)) {}

Subscription& Subscription::operator=(Subscription&& other) noexcept {
    if (this != &other) {
        reset();
        core_ = std::exchange(other.core_, {});
        number_ = std::exchange(other.number_, 0);
    }
    return *this;
}

void Subscription::reset() noexcept {
    if (const auto core = std::exchange(core_, {}).lock()) core->unsubscribe(number_);
}

// --- Session -----------------------------------------------------------------------------------------------

async::Task<std::shared_ptr<Session>> Session::connect(std::string path, async::Deadline deadline) {
    UniqueFd connected = connect_unix(path);
    co_return co_await adopt(std::move(connected), std::move(path), deadline);
}

async::Task<std::shared_ptr<Session>> Session::adopt(UniqueFd connected, std::string name,
                                                     async::Deadline deadline) {
    const async::Executor executor = co_await async::asio::this_coro::executor;
    const auto core = std::make_shared<SessionCore>(executor, std::move(connected), std::move(name));
    const auto session = std::make_shared<Session>(core);
    co_await SessionCore::negotiate(core, deadline);
    co_return session;
}

Session::~Session() {
    core_->end_here("it was let go of on this side");
}

async::Task<Json> Session::execute(std::string command, Json arguments, async::Deadline deadline) {
    return value_of(ask(std::move(command), std::move(arguments), deadline));
}

async::Task<Json> Session::execute_with(UniqueFd passed, std::string command, Json arguments,
                                        async::Deadline deadline) {
    return value_of(
        SessionCore::ask(core_, std::move(command), std::move(arguments), deadline, std::move(passed)));
}

async::Task<Answer> Session::ask(std::string command, Json arguments, async::Deadline deadline) {
    return SessionCore::ask(core_, std::move(command), std::move(arguments), deadline);
}

Subscription Session::subscribe(EventCallback on_event, ClosedCallback on_closed) {
    return core_->subscribe(std::move(on_event), std::move(on_closed));
}

bool Session::closed() const noexcept {
    return core_->closed.has_value();
}

const std::string& Session::close_reason() const noexcept {
    static const std::string none;
    return core_->closed ? *core_->closed : none;
}

async::Task<> Session::wait_closed(async::Deadline deadline) {
    return SessionCore::wait_closed(core_, deadline);
}

async::Task<Error> Session::loss() {
    return SessionCore::loss(core_);
}

void Session::explain_loss_with(std::function<async::Task<std::string>()> explain) {
    core_->explain = std::move(explain);
}

const std::shared_ptr<Peer>& Session::peer() const noexcept {
    return core_->peer;
}

async::Task<bool> Session::peer_exited(async::Deadline deadline) {
    const std::shared_ptr<Peer> peer = core_->peer;
    if (!peer) co_return false;
    co_return co_await peer->wait_ended(deadline);
}

const std::optional<std::string>& Session::shutdown_reason() const noexcept {
    return core_->shutdown_reason;
}
const Greeting& Session::greeting() const noexcept {
    return core_->greeting;
}
const std::string& Session::name() const noexcept {
    return core_->name;
}

async::Task<std::shared_ptr<const Schema>> Session::schema(async::Deadline deadline) {
    return SessionCore::schema(core_, deadline);
}

async::Task<> Session::close() {
    return SessionCore::close(core_);
}

}  // namespace volchain::qmp
