// SPDX-License-Identifier: MIT
#include "daemon/daemon.h"

#include <boost/asio/signal_set.hpp>
#include <csignal>
#include <cstdlib>

#include "systemd/notify.h"
#include "systemd/transient_unit.h"

namespace volchain::daemon {
namespace {

/// systemd separates several directories by colons; the first is the one for us.
std::string directory(const char* variable, const char* otherwise) {
    const char* const value = std::getenv(variable);
    if (value == nullptr || *value == '\0') return otherwise;
    const std::string all(value);
    return all.substr(0, all.find(':'));
}

constexpr auto name_limit = std::chrono::seconds(20);
constexpr auto flush_limit = std::chrono::seconds(2);
/// Longer than the engine gives its operations to end.
constexpr auto stop_limit = std::chrono::seconds(60);

}  // namespace

Directories Directories::from_environment() {
    return {directory("STATE_DIRECTORY", "/var/lib/volchain"),
            directory("RUNTIME_DIRECTORY", "/run/volchain"),
            directory("CONFIGURATION_DIRECTORY", "/etc/volchain")};
}

Daemon::Daemon(async::Executor executor, const Directories& directories, Config config,
               systemd::LogTarget log_target)
    : executor_(executor),
      bus_(bus::Connection::open_system(executor)),
      log_control_(bus_, "volchaind", log_target),
      engine_(executor, std::move(config.settings), directories.state, directories.runtime),
      units_(bus_),
      authorization_(bus_, engine_),
      publisher_(bus_, engine_, authorization_),
      tasks_(executor) {
    if (systemd::runs_as_service()) engine_.keep_processes_with(units_);
    bus_.on_lost([this](std::string reason) {
        bus_lost_ = std::move(reason);
        ending_ = true;
        end_.notify();
    });
}

async::Task<> Daemon::run() {
    tasks_.spawn(wait_for_signal(), "waiting for signals");
    tasks_.spawn(systemd::run_watchdog(), "the watchdog");
    std::exception_ptr failure;
    co_await async::keep_failure(start(), failure);
    while (!failure && !ending_) co_await end_.wait(async::no_deadline, "the end");
    co_await stop();
    if (failure) std::rethrow_exception(failure);
    if (!bus_lost_.empty()) throw Error(ErrorCode::unreachable, "the message bus has gone: {}", bus_lost_);
}

async::Task<> Daemon::start() {
    systemd::notify_status("Recovering");
    // First of all it thaws who was left frozen.
    co_await engine_.start();
    co_await publisher_.manager().probe_qemu();
    publisher_.publish();
    co_await bus_.request_name(service_name, async::after(name_limit));
    log().info("volchaind {} is ready: {} VM(s), {} disk(s)", VOLCHAIN_VERSION,
               engine_.catalog().vms().size(), engine_.catalog().disks().size());
    systemd::notify_status("Ready");
    systemd::notify_ready();
}

async::Task<> Daemon::stop() {
    co_await async::ignore_cancellation();
    systemd::notify_stopping();
    systemd::notify_extend_timeout(stop_limit);
    co_await engine_.stop();
    co_await publisher_.stop();
    std::exception_ptr ignored;
    co_await async::keep_failure(bus_.flush(async::after(flush_limit)), ignored);
    co_await tasks_.stop();
}

async::Task<> Daemon::wait_for_signal() {
    async::asio::signal_set signals(executor_, SIGTERM, SIGINT);
    (void)co_await signals.async_wait(async::asio::use_awaitable);
    log().info("asked to end");
    ending_ = true;
    end_.notify();
}

}  // namespace volchain::daemon
