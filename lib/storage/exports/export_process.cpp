// SPDX-License-Identifier: MIT
#include "storage/exports/export_process.h"

#include <csignal>

#include "base/text.h"
#include "qmp/peer.h"
#include "storage/process_keeper.h"

namespace volchain::storage {
namespace {

constexpr auto time_to_be_killed = std::chrono::seconds(5);

/// Null where nobody listens; also for one that hangs, and so does not greet, where its mark tells whom to kill.
async::Task<std::shared_ptr<qmp::StorageDaemon>> connect_if_there(Engine& engine, std::string monitor,
                                                                  ProcessMark mark) {
    const async::Deadline deadline = async::after(engine.settings().greeting_timeout);
    try {
        co_return co_await qmp::StorageDaemon::attach(std::move(monitor), deadline);
    } catch (const qmp::ConnectError& error) {
        const bool gone = error.reason() == qmp::ConnectError::Reason::nobody_listens;
        if (!gone && mark.pid == 0) throw;
    }
    co_return nullptr;
}

/// Kills a process that takes no commands, and makes sure that it is gone.
async::Task<> end_by_mark(ProcessMark mark) {
    const async::Executor executor = co_await async::asio::this_coro::executor;
    if (mark.pid == 0) co_return;
    ucred credentials{};
    credentials.pid = static_cast<pid_t>(mark.pid);
    const std::shared_ptr<qmp::Peer> process = qmp::Peer::watch(executor, credentials);
    // Looked at with the process in hand: it is this one, or it has been another one all the time.
    if (!process || mark_of_process(process->pid()) != mark || process->ended()) co_return;
    log().warning("storage daemon {} takes no commands: killing it", mark.pid);
    process->signal(SIGKILL);
    const bool ended = co_await process->wait_ended(async::after(time_to_be_killed));
    if (!ended)
        throw Error(ErrorCode::timeout,
                    "storage daemon {} does not end though it was killed; it hangs in the kernel", mark.pid);
}

}  // namespace

ExportPlace place_of_export(const Engine& engine, const Uuid& id) {
    return {engine.runtime_directory(), engine.state_directory(), id};
}

async::Task<ExportProcess> start_export_process(Engine& engine, qmp::StorageDaemonOptions options,
                                                std::string name, std::string what) {
    options.detached = true;
    options.program = engine.settings().storage_daemon;
    const bool launched = static_cast<bool>(options.launch);
    ExportProcess process;
    process.daemon = co_await qmp::StorageDaemon::start(std::move(options),
                                                        async::after(engine.settings().command_timeout));
    process.mark = mark_of_process(process.daemon->pid());
    if (engine.process_keeper() != nullptr && !launched)
        co_await engine.process_keeper()->keep(process.daemon->pid(), std::move(name), std::move(what));
    co_return process;
}

async::Task<std::shared_ptr<qmp::StorageDaemon>> find_export_process(Engine& engine, std::string monitor,
                                                                     ProcessMark mark) {
    auto daemon =
        co_await qmp::StorageDaemon::attach(monitor, async::after(engine.settings().greeting_timeout));
    if (mark_of_process(daemon->pid()) != mark)
        throw Error(ErrorCode::in_use, "what listens on {} is process {}, not storage daemon {}",
                    quote(monitor), daemon->pid(), mark.pid);
    co_return daemon;
}

async::Task<std::string> node_shown_by(Engine& engine, std::shared_ptr<qmp::StorageDaemon> daemon) {
    const Json answer = co_await daemon->session()->execute("query-block-exports", Json::object(),
                                                            async::after(engine.settings().command_timeout));
    const JsonReader shown(answer, "answer of query-block-exports", ErrorCode::qemu_failed);
    for (const JsonReader& one : shown.elements())
        if (one.at("id").string() == export_name && !one.at("shutting-down").boolean())
            co_return one.at("node-name").string();
    throw Error(ErrorCode::qemu_failed, "storage daemon {} shows nothing any more", daemon->pid());
}

async::Task<> end_export_process(Engine& engine, std::string monitor, ProcessMark mark,
                                 std::shared_ptr<qmp::StorageDaemon> daemon) {
    if (!daemon || daemon->session()->closed())
        daemon = co_await connect_if_there(engine, std::move(monitor), mark);
    if (!daemon) co_return co_await end_by_mark(mark);
    (void)co_await daemon->stop(async::after(engine.settings().command_timeout));
    co_await daemon->wait_ended(async::Clock::now());
}

}  // namespace volchain::storage
