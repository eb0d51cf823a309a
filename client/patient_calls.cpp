// SPDX-License-Identifier: MIT
#include "client/patient_calls.h"

#include "systemd/bus_error.h"

namespace volchain::client {
namespace {

/// How long a daemon may take to be started again.
constexpr auto daemon_patience = std::chrono::seconds(90);
constexpr auto ask_daemon_again = std::chrono::milliseconds(500);

/// What the daemon itself finds unreachable is something else.
bool daemon_is_away(const std::exception_ptr& failure) {
    try {
        std::rethrow_exception(failure);
    } catch (const bus::RemoteError& error) {
        return error.code() == ErrorCode::unreachable;
    } catch (...) {
        return false;
    }
}

/// The answer to Finish may have been lost together with the daemon; jobs are on disk.
async::Task<bus::ObjectPath> find_finishing_job(BackupWork& work, bus::ObjectPath backup) {
    const Objects objects = co_await work.session().objects();
    bus::ObjectPath found;
    for (const Object* job : objects.of_kind("job"))
        if (job->text("Kind") == "finish-backup" && job->reference("Subject") == backup) found = job->path;
    co_return found;
}

class Finishing {
  public:
    Finishing(BackupWork& work, bus::ObjectPath backup) : work_(work), backup_(std::move(backup)) {}

    async::Task<bus::Dict> run() {
        const async::Deadline end = async::after(daemon_patience);
        while (true) {
            std::exception_ptr failure;
            bus::Dict result;
            co_await async::keep_result(once(), result, failure);
            if (!failure) co_return result;
            // The wait for a job says by this that the daemon has gone.
            const bool away = to_error(failure).code() == ErrorCode::unreachable;
            if (!away || async::Clock::now() >= end) std::rethrow_exception(failure);
            // With D-Bus activation the next call starts it.
            co_await async::sleep_until(async::after(ask_daemon_again));
            if (job_.none()) co_await async::keep_result(find_finishing_job(work_, backup_), job_, failure);
        }
    }

  private:
    async::Task<bus::Dict> once() {
        const bus::Dict options;
        if (job_.none()) job_ = co_await work_.session().call<bus::ObjectPath>(backup_, "Finish", options);
        co_return co_await work_.job_to_its_end(job_);
    }

    BackupWork& work_;
    bus::ObjectPath backup_;
    bus::ObjectPath job_;
};

}  // namespace

async::Task<UniqueFd> open_export(BackupWork& work, bus::ObjectPath shown) {
    const async::Deadline end = async::after(daemon_patience);
    while (true) {
        std::exception_ptr failure;
        bus::UnixFd socket;
        co_await async::keep_result(work.session().call<bus::UnixFd>(shown, "Open"), socket, failure);
        if (!failure) co_return socket.duplicate();
        work.stop().throw_if_asked();
        if (!daemon_is_away(failure) || async::Clock::now() >= end) std::rethrow_exception(failure);
        co_await async::sleep_until(async::after(ask_daemon_again));
    }
}

async::Task<bus::Dict> finish_backup(BackupWork& work, bus::ObjectPath backup) {
    Finishing finishing(work, std::move(backup));
    co_return co_await finishing.run();
}

}  // namespace volchain::client
