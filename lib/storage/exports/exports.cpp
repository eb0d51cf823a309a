// SPDX-License-Identifier: MIT
#include "storage/exports/exports.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "base/file.h"
#include "base/text.h"
#include "storage/engine.h"
#include "storage/exports/export_device.h"
#include "storage/exports/export_listener.h"
#include "storage/exports/export_mount.h"
#include "storage/exports/export_server.h"
#include "storage/exports/socket_census.h"
#include "storage/exports/stop_export.h"

namespace volchain::storage {
namespace {

/// Between two attempts to do away with an export.
constexpr auto try_again = std::chrono::seconds(30);
/// It is twice as long each time: an attempt is a job, and jobs are kept.
constexpr auto longest_pause = std::chrono::minutes(30);
constexpr auto try_again_when_busy = std::chrono::seconds(1);
/// Clocks are set, also backwards: the time of expiry is a matter of the clock, waiting is not.
constexpr auto longest_sleep = std::chrono::seconds(60);
/// Between the end of a connection and that of the process.
constexpr auto time_to_end = std::chrono::seconds(2);
/// A property may be read as often as anybody likes.
constexpr auto census_age = std::chrono::milliseconds(100);
constexpr std::size_t max_table_bytes = std::size_t{64} << 20;

bool expired(const ExportRecord& record) {
    return record.state == ExportState::ready && record.expires != Timestamp() && record.expires <= now();
}

/// Empty where the host does not tell.
std::string table_of_sockets(const std::string& path) {
    try {
        return read_file(path, max_table_bytes);
    } catch (const Error& error) {
        log().debug("{}", error.what());
        return {};
    }
}

async::Task<Exports::Daemons> find_daemons(Engine& engine, ExportRecord record) {
    Exports::Daemons daemons;
    daemons.push_back(co_await find_export_server(engine, record));
    if (record.kind == ExportKind::file) daemons.push_back(co_await find_export_mount(engine, record));
    co_return daemons;
}

std::string port_key(std::uint16_t port) {
    return fmt::format("port {}", port);
}

void count_sockets(const std::string& process, std::map<std::string, std::uint32_t>& all) {
    for (const auto& [path, count] : unix_connections(table_of_sockets(process + "/net/unix")))
        all[path] += count;
    for (const char* table : {"/net/tcp", "/net/tcp6"})
        for (const auto& [port, count] : tcp_connections(table_of_sockets(process + table)))
            all[port_key(port)] += count;
}

/// As a service we have no part in the host's network, nor in that of storage daemons that were there before us: a network
/// namespace has a table of its own, for Unix sockets, too.
std::map<std::string, std::uint32_t> take_census(const Catalog& catalog) {
    std::vector<std::string> processes{"/proc/self", "/proc/1"};
    for (const auto& [id, record] : catalog.exports())
        if (record.server.pid != 0) processes.push_back(fmt::format("/proc/{}", record.server.pid));
    std::map<std::string, std::uint32_t> all;
    std::set<std::string> seen;
    for (const std::string& process : processes) {
        std::error_code failure;
        const std::string space = std::filesystem::read_symlink(process + "/ns/net", failure).string();
        if (!failure && seen.insert(space).second) count_sockets(process, all);
    }
    return all;
}

}  // namespace

Exports::Exports(Engine& engine) : engine_(engine), tasks_(engine.executor()) {}

async::Task<> Exports::start() {
    co_await async::ignore_cancellation();
    async::TaskGroup looks(engine_.executor());
    for (const Uuid& id : engine_.catalog().ids(ObjectKind::exported))
        if (!looked_after_by_others(id)) looks.spawn(find(id), "finding the storage daemon of an export");
    co_await looks.drain();
    tasks_.spawn(end_those_due(), "ending exports whose time is up");
}

/// By a job that has not ended, or by the QEMU of a VM.
bool Exports::looked_after_by_others(const Uuid& id) const {
    const ExportRecord& record = engine_.catalog().exported(id);
    if (engine_.locks().held({ObjectKind::exported, id})) return true;
    if (record.backup.nil()) return false;
    return shown_by_vm(engine_.catalog(), record) || record.state != ExportState::ready ||
           engine_.locks().held({ObjectKind::backup, record.backup});
}

async::Task<> Exports::stop() {
    stopping_ = true;
    daemons_.clear();
    co_await tasks_.stop();
}

void Exports::attend(const Uuid& id, Daemons daemons) {
    for (const auto& daemon : daemons)
        tasks_.spawn(watch(id, daemon), "watching the storage daemon of an export");
    daemons_[id] = std::move(daemons);
}

Exports::Daemons Exports::neglect(const Uuid& id) {
    const auto found = daemons_.find(id);
    if (found == daemons_.end()) return {};
    Daemons daemons = std::move(found->second);
    daemons_.erase(found);
    return daemons;
}

void Exports::vm_changed(const Uuid& vm) {
    for (const auto& [id, record] : engine_.catalog().exports())
        if (record.appliance == vm && record.state == ExportState::ready && !stopping_)
            tasks_.spawn(find_device(id), "looking for the device of an export");
}

void Exports::end(const Uuid& id, std::string why) {
    // Also one that is due already: what was in its way may have gone.
    due_.insert_or_assign(id, Due{std::move(why), async::Clock::now()});
    look();
}

void Exports::look() {
    wanted_ = true;
    asked_.notify();
}

void Exports::forgive(const Uuid& id) {
    const auto due = due_.find(id);
    if (due != due_.end() && due->second.by_time) due_.erase(due);
    look();
}

// --- storage daemons ---------------------------------------------------------------------------------------

async::Task<> Exports::find(Uuid id) {
    const ExportRecord record = engine_.catalog().exported(id);
    if (record.state != ExportState::ready) co_return end(id, "it was being stopped");
    if (record.kind == ExportKind::device) co_return co_await find_device(id);
    Daemons daemons;
    std::exception_ptr failure;
    co_await async::keep_result(find_daemons(engine_, record), daemons, failure);
    if (failure) co_return co_await note_lost(id, to_error(failure).what());
    attend(id, std::move(daemons));
}

/// Where nobody can tell whether the appliance runs, it is looked for again when that is known.
async::Task<> Exports::find_device(Uuid id) {
    const ObjectId object{ObjectKind::exported, id};
    if (!engine_.catalog().has(object) || engine_.locks().held(object)) co_return;
    const ExportRecord record = engine_.catalog().exported(id);
    const std::string vm = engine_.catalog().describe({ObjectKind::vm, record.appliance});
    std::string why;
    try {
        const bool there = appliance_is_there(engine_, record);
        const bool has_it = there && co_await has_export_device(engine_, record);
        if (!has_it) why = there ? vm + " has let go of it" : vm + " has ended";
    } catch (const Error& error) {
        if (error.code() == ErrorCode::cancelled) throw;
        log().with("VOLCHAIN_EXPORT", id.str()).debug("{}", error.what());
    }
    if (!why.empty()) co_await note_lost(id, std::move(why));
}

async::Task<> Exports::watch(Uuid id, std::shared_ptr<qmp::StorageDaemon> daemon) {
    co_await daemon->session()->wait_closed(async::no_deadline);
    const auto is_ours = [this, id, &daemon] {
        const auto known = daemons_.find(id);
        return known != daemons_.end() &&
               std::find(known->second.begin(), known->second.end(), daemon) != known->second.end();
    };
    if (!is_ours()) co_return;
    const bool ended = co_await daemon->session()->peer_exited(async::after(time_to_end));
    if (!is_ours()) co_return;
    const Daemons all = neglect(id);
    if (ended)
        co_return co_await note_lost(id, fmt::format("its storage daemon {} has ended", daemon->pid()));
    // A monitor serves one client at a time.
    for (const auto& one : all) co_await one->session()->close();
    co_await find(id);
}

async::Task<> Exports::note_lost(Uuid id, std::string why) {
    const ObjectId object{ObjectKind::exported, id};
    if (!engine_.catalog().has(object)) co_return;
    if (const Uuid backup = engine_.catalog().exported(id).backup)
        co_return engine_.backups().part_lost(backup, std::move(why));
    // Who works on it may be about to say that it is ready.
    if (engine_.locks().held(object)) co_return end(id, std::move(why));
    log()
        .with("VOLCHAIN_EXPORT", id.str())
        .warning("{} is lost: {}", engine_.catalog().describe(object), why);
    {
        const auto held = engine_.locks().take({object}, "being looked at", Uuid{});
        ExportRecord record = engine_.catalog().exported(id);
        record.state = ExportState::lost;
        Changes changes;
        changes.put(std::move(record));
        co_await engine_.catalog().commit(std::move(changes), Durability::process);
    }
    end(id, std::move(why));
}

// --- those that are to go ----------------------------------------------------------------------------------

async::Task<> Exports::end_those_due() {
    while (true) {
        wanted_ = false;
        add_expired();
        std::vector<Uuid> now_due;
        for (const auto& [id, due] : due_)
            if (due.next_try <= async::Clock::now()) now_due.push_back(id);
        for (const Uuid& id : now_due) co_await try_to_end(id);
        std::exception_ptr timeout;
        const async::Deadline deadline = next_look();
        while (!wanted_ && !timeout)
            co_await async::keep_failure(asked_.wait(deadline, "an export that is to go"), timeout);
        if (timeout && to_error(timeout).code() == ErrorCode::cancelled) std::rethrow_exception(timeout);
    }
}

void Exports::add_expired() {
    for (const auto& [id, record] : engine_.catalog().exports()) {
        if (!expired(record)) continue;
        Due due{fmt::format("its time was up at {}", format_utc(record.expires)), async::Clock::now(), true};
        due_.try_emplace(id, std::move(due));
    }
}

async::Deadline Exports::next_look() const {
    async::Deadline next = async::after(longest_sleep);
    for (const auto& [id, due] : due_) next = std::min(next, due.next_try);
    for (const auto& [id, record] : engine_.catalog().exports()) {
        if (record.state != ExportState::ready || record.expires == Timestamp() || due_.contains(id))
            continue;
        next = std::min(next, async::after(std::max(record.expires - now(), Microseconds(0))));
    }
    return next;
}

async::Task<> Exports::try_to_end(Uuid id) {
    const auto due = due_.find(id);
    if (due == due_.end()) co_return;
    if (!engine_.catalog().has({ObjectKind::exported, id})) {
        due_.erase(due);
        co_return;
    }
    Due& attempt = due->second;
    attempt.pause = std::clamp<async::Clock::duration>(2 * attempt.pause, try_again, longest_pause);
    attempt.next_try = async::after(attempt.pause);
    const ExportRecord& record = engine_.catalog().exported(id);
    // It ends with what it is a part of.
    if (record.backup) co_return engine_.backups().abort(record.backup, due->second.why);
    StopExportRequest request(id, record.owner_uid);
    request.why = due->second.why;
    std::exception_ptr failure;
    co_await async::keep_failure(stop_export(engine_, std::move(request)), failure);
    if (!failure) co_return;
    const Error error = to_error(failure);
    log()
        .with("VOLCHAIN_EXPORT", id.str())
        .debug("export {} cannot be stopped yet: {}", id.str(), error.what());
    // Who works on it is soon done.
    const auto again = due_.find(id);
    if (again != due_.end() && error.code() == ErrorCode::busy)
        again->second.next_try = async::after(try_again_when_busy);
}

// --- connections -------------------------------------------------------------------------------------------

std::uint32_t Exports::connections(const Uuid& id) {
    const ExportRecord& record = engine_.catalog().exported(id);
    if (record.kind != ExportKind::nbd || record.state == ExportState::starting) return 0;
    if (census_until_ < async::Clock::now()) {
        census_ = take_census(engine_.catalog());
        census_until_ = async::after(census_age);
    }
    const std::string key = record.address.empty() ? socket_of_export(engine_, record)
                                                   : port_key(TcpAddress::parse(record.address).port);
    const auto found = census_.find(key);
    return found == census_.end() ? 0 : found->second;
}

}  // namespace volchain::storage
