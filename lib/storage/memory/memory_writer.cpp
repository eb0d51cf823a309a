// SPDX-License-Identifier: MIT
#include "storage/memory/memory_writer.h"

#include <algorithm>
#include <array>

#include "base/text.h"
#include "storage/memory/memory_file.h"
#include "storage/qemu/disk_activation.h"
#include "storage/qemu/run_state.h"

namespace volchain::storage {
namespace {

constexpr const char* background_snapshot = "background-snapshot";
constexpr const char* events = "events";

/// More than any disk writes: a guest that stands still is not to wait for a limit.
constexpr std::uint64_t no_limit = std::uint64_t{1} << 40;

constexpr auto writer_look_interval = std::chrono::milliseconds(250);
/// How soon one looks whether QEMU has let the guest run without saying so.
constexpr auto first_look = std::chrono::milliseconds(50);
/// Nothing was written for so long: the storage hangs, and a guest that writes to its memory hangs with it.
constexpr auto writer_stall_limit = std::chrono::seconds(60);
constexpr auto settle_pause = std::chrono::milliseconds(500);
/// How long a QEMU is asked again that refuses to let the guest run.
constexpr auto refusal_limit = std::chrono::seconds(30);

void check_run_state(const std::string& what, const std::string& state) {
    // RunState: those in which a guest can be stopped and go on, in this QEMU and in one that reads its memory.
    constexpr std::array<std::string_view, 5> fit{"running", "paused", "prelaunch", "io-error", "watchdog"};
    if (std::find(fit.begin(), fit.end(), state) != fit.end()) return;
    if (state == "postmigrate")
        throw Error(
            ErrorCode::unsupported,
            "{} has stood still since its memory was written the last time, and QEMU does not write it "
            "again before the guest has run: resume the guest first",
            what);
    throw Error(
        ErrorCode::unsupported,
        "{} is in the state {} of QEMU, in which its memory cannot be kept: let the guest run first, or "
        "take the snapshot without memory",
        what, quote(state));
}

async::Task<std::uint64_t> most_bytes(std::shared_ptr<qmp::Session> session, async::Deadline deadline) {
    const Json size = co_await session->execute("query-memory-size-summary", Json::object(), deadline);
    const JsonReader summary(size, "query-memory-size-summary", ErrorCode::qemu_failed);
    co_return memory_room(summary.at("base-memory").u64() + summary.u64_or("plugged-memory", 0));
}

}  // namespace

async::Task<std::uint64_t> check_memory(Engine& engine, Uuid vm) {
    const std::shared_ptr<qmp::Session> session = engine.vm(vm).session();
    const async::Deadline deadline = async::after(engine.settings().command_timeout);
    const std::string what = engine.catalog().describe({ObjectKind::vm, vm});
    const std::string state = co_await run_state(session, deadline);
    check_run_state(what, state);
    qmp::Migration migration(session);
    const qmp::MigrationInfo info = co_await migration.query(deadline);
    if (info.under_way())
        throw Error(ErrorCode::busy, "{} is being migrated ({}): its memory cannot be kept meanwhile", what,
                    info.status);
    if (!info.blocked.empty())
        throw Error(ErrorCode::unsupported,
                    "the memory of {} cannot be kept, as its QEMU cannot be migrated: {}; take the snapshot "
                    "without memory, or the device away",
                    what, clipped(joined(info.blocked, "; "), 1000));
    co_return co_await most_bytes(session, deadline);
}

MemoryWriter::MemoryWriter(Engine& engine, JobPtr job, const Uuid& vm, std::string pool, std::string file)
    : engine_(engine), job_(std::move(job)), vm_(vm), pool_(std::move(pool)), file_(std::move(file)) {}

std::shared_ptr<qmp::Session> MemoryWriter::session() const {
    return engine_.vm(vm_).session();
}

async::Deadline MemoryWriter::soon() const {
    return async::after(engine_.settings().command_timeout);
}

Json MemoryWriter::plan() const {
    Json plan;
    plan["before"] = before_;
    if (bandwidth_before_) plan["bandwidth"] = *bandwidth_before_;
    plan["halted"] = halted_;
    plan["ran"] = ran_;
    return plan;
}

void MemoryWriter::take_plan(const JsonReader& plan) {
    for (const auto& [name, on] : plan.at("before").json().items()) before_[name] = on.get<bool>();
    if (const auto bandwidth = plan.find("bandwidth")) bandwidth_before_ = bandwidth->u64();
    halted_ = plan.at("halted").boolean();
    ran_ = plan.at("ran").boolean();
}

// --- before the guest stands still -----------------------------------------------------------------------

async::Task<> MemoryWriter::look() {
    const std::shared_ptr<qmp::Session> session = this->session();
    const qmp::Capabilities all = co_await qmp::read_capabilities(session, soon());
    for (const char* name : {background_snapshot, events})
        if (const auto found = all.find(name); found != all.end()) before_[name] = found->second;
    const Json parameters = co_await session->execute("query-migrate-parameters", Json::object(), soon());
    const JsonReader reader(parameters, "query-migrate-parameters", ErrorCode::qemu_failed);
    if (const auto bandwidth = reader.find("max-bandwidth")) bandwidth_before_ = bandwidth->u64();
    room_ = co_await most_bytes(session, soon());
    const std::string state = co_await run_state(session, soon());
    check_run_state("the VM", state);
    ran_ = state == "running";
}

async::Task<> MemoryWriter::prepare() {
    const std::shared_ptr<qmp::Session> session = this->session();
    migration_.emplace(session);
    if (before_.contains(events)) {
        qmp::Capabilities wanted;
        wanted[events] = true;
        co_await qmp::set_capabilities(session, std::move(wanted), soon());
    }
    if (ran_)
        co_await try_background();
    else
        why_not_ = "the guest was not running";
    if (!background_) co_await set_bandwidth(no_limit);
    auto open = [pool = pool_, file = file_, room = room_] { return open_memory_to_write(pool, file, room); };
    UniqueFd fd = co_await engine_.files().run(std::move(open));
    co_await migration_->pass(std::move(fd), soon());
}

async::Task<> MemoryWriter::try_background() {
    if (!before_.contains(background_snapshot)) {
        why_not_ = "this QEMU does not know it";
        co_return;
    }
    qmp::Capabilities wanted;
    wanted[background_snapshot] = true;
    try {
        co_await qmp::set_capabilities(session(), std::move(wanted), soon());
        background_ = true;
    } catch (const qmp::CommandError& error) {
        why_not_ = error.description();
    }
    if (!background_) job_->log().notice("the guest stands still while its memory is written: {}", why_not_);
}

async::Task<> MemoryWriter::set_bandwidth(std::uint64_t bytes_per_second) {
    if (!bandwidth_before_) co_return;
    Json arguments;
    arguments["max-bandwidth"] = bytes_per_second;
    (void)co_await session()->execute("migrate-set-parameters", std::move(arguments), soon());
}

// --- at the instant --------------------------------------------------------------------------------------

async::Task<> MemoryWriter::stop() {
    const std::shared_ptr<qmp::Session> session = this->session();
    migration_->forget_stops();
    (void)co_await session->execute("stop", Json::object(), soon());
    // Somebody else may have stopped it, or let it run, since it was looked at: QEMU says whether this has stopped it.
    ran_ = halted_ = migration_->stopped().has_value();
    if (ran_ || !background_) co_return;
    background_ = false;
    why_not_ = "the guest was stopped meanwhile";
    qmp::Capabilities wanted;
    wanted[background_snapshot] = false;
    co_await qmp::set_capabilities(session, std::move(wanted), soon());
    co_await set_bandwidth(no_limit);
}

async::Task<> MemoryWriter::save() {
    moved_ = async::Clock::now();
    co_await migration_->start(soon());
    if (background_) co_await until_guest_runs();
}

/// QEMU 7.2 lets it run in any case, later ones let it be what it was when "migrate" came: then that is done here, once
/// pages are written, which is after the devices were.
async::Task<> MemoryWriter::until_guest_runs() {
    const async::Deadline end = soon();
    while (!migration_->resumed()) {
        co_await migration_->wait(async::after(first_look));
        if (migration_->resumed()) break;
        const qmp::MigrationInfo info = co_await migration_->query(soon());
        if (info.status == "failed")
            throw Error(qmp::code_of_words(info.error), "QEMU could not save the devices: {}", info.error);
        if (info.pages > 0 || info.status == "completed") co_await let_guest_run();
        if (async::Clock::now() > end)
            throw Error(ErrorCode::timeout, "QEMU has not saved the state of the devices in time");
    }
    halted_ = false;
}

// --- while it is written ---------------------------------------------------------------------------------

async::Task<> MemoryWriter::write() {
    while (true) {
        const bool done = co_await look_at_progress();
        if (done) break;
        co_await job_->or_cancel(migration_->wait(async::after(writer_look_interval)));
    }
    if (halted_) co_await let_guest_run();
    halted_ = false;
    if (!background_ && !ran_) co_await activate_disks(session(), soon());
    co_await put_back();
}

async::Task<bool> MemoryWriter::look_at_progress() {
    const qmp::MigrationInfo info = co_await migration_->query(soon());
    if (info.status == "completed") {
        job_->progress(info.total, info.total);
        downtime_ms_ = info.downtime_ms;
        co_return true;
    }
    if (info.status == "failed") fail_to_write(info.error);
    if (!info.under_way()) fail_to_write("it was broken off by somebody else");
    take_progress(info);
    co_return false;
}

void MemoryWriter::fail_to_write(const std::string& error) const {
    throw Error(qmp::code_of_words(error), "QEMU could not write the memory: {}{}",
                error.empty() ? "it does not say why" : clipped(error, 500),
                background_ ? "; where the guest stands still now, its QEMU has to be started again" : "");
}

void MemoryWriter::take_progress(const qmp::MigrationInfo& info) {
    const std::uint64_t position = info.total - std::min(info.total, info.remaining);
    job_->progress(position, info.total);
    if (position != position_) moved_ = async::Clock::now();
    position_ = position;
    if (async::Clock::now() > moved_ + writer_stall_limit)
        throw Error(ErrorCode::timeout, "nothing of the memory was written for {} s: its storage hangs",
                    std::chrono::seconds(writer_stall_limit).count());
}

// --- the end, good or bad --------------------------------------------------------------------------------

/// A guest that runs already goes on.
async::Task<> MemoryWriter::let_guest_run() {
    (void)co_await run_state_after_migration(session(), soon());
    (void)co_await session()->execute("cont", Json::object(), soon());
}

async::Task<> MemoryWriter::put_back() {
    if (!before_.empty()) co_await qmp::set_capabilities(session(), before_, soon());
    if (bandwidth_before_) co_await set_bandwidth(*bandwidth_before_);
    before_.clear();
    bandwidth_before_.reset();
}

/// One that is not ours goes on: somebody may have begun it while no daemon ran. In the background it is waited for.
async::Task<> MemoryWriter::end_migration() {
    qmp::Migration migration(session());
    const auto peer = session()->peer();
    auto look = [pid = peer ? peer->pid() : 0, pool = pool_, file = file_] {
        return pid == 0 || has_open(pid, pool, file);
    };
    const bool ours = co_await engine_.files().run(std::move(look));
    if (!ours) co_return;
    qmp::Capabilities set = co_await qmp::read_capabilities(session(), soon());
    const bool background = set[background_snapshot];
    moved_ = async::Clock::now();
    while (true) {
        const qmp::MigrationInfo info = co_await migration.query(soon());
        if (!info.under_way()) break;
        if (background)
            take_progress(info);
        else if (info.status != "cancelling")
            co_await migration.cancel(soon());
        co_await migration.wait(async::after(writer_look_interval));
    }
    co_await migration.take_back(soon());
}

async::Task<> MemoryWriter::settle_once() {
    co_await end_migration();
    if (halted_)
        co_await let_guest_run();
    else
        co_await activate_disks(session(), soon());
    halted_ = false;
    co_await put_back();
}

async::Task<> MemoryWriter::settle(async::Deadline end) {
    const async::Deadline refused_until = std::min(end, async::after(refusal_limit));
    for (bool complained = false;; complained = true) {
        std::exception_ptr failure;
        co_await async::keep_failure(
            engine_.vm(vm_).look_now(async::after(engine_.settings().greeting_timeout * 2)), failure);
        if (engine_.vm(vm_).down()) break;
        failure = nullptr;
        co_await async::keep_failure(settle_once(), failure);
        if (!failure) break;
        const Error error = to_error(failure);
        if (error.code() == ErrorCode::cancelled) throw error;
        const bool silent = error.code() == ErrorCode::unreachable || error.code() == ErrorCode::timeout;
        if (async::Clock::now() > (silent ? end : refused_until)) {
            job_->log().error("the VM may stand still and cannot be resumed: {}", error.what());
            break;
        }
        if (!complained)
            job_->log().warning("the VM is not as it was before its memory was written yet: {}; trying on",
                                error.what());
        co_await async::sleep_until(async::after(settle_pause));
    }
    migration_.reset();
}

void MemoryWriter::report(Json& result) const {
    result["memory"] = background_ ? "background" : "paused";
    if (!why_not_.empty()) result["memory-paused"] = why_not_;
    if (downtime_ms_ && background_) result["downtime-usec"] = *downtime_ms_ * 1000;
    if (!migration_ || !ran_ || !migration_->stopped() || !migration_->resumed()) return;
    const auto pause = *migration_->resumed() - *migration_->stopped();
    result["pause-usec"] = static_cast<std::uint64_t>(std::max<std::int64_t>(0, pause.count()));
}

}  // namespace volchain::storage
