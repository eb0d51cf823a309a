// SPDX-License-Identifier: MIT
#include "storage/schedules/scheduler.h"

#include <algorithm>

#include "async/deadline.h"
#include "base/text.h"
#include "storage/engine.h"
#include "storage/merges/remove_volumes.h"
#include "storage/schedules/schedules.h"
#include "storage/snapshots/snapshot_options.h"

namespace volchain::storage {
namespace {

/// The host's clock may be set, and the host may sleep: nothing is waited for longer than this without a look at it.
constexpr std::chrono::microseconds longest_nap = std::chrono::seconds(30);
/// A clock that was ahead by more than this was wrong then.
constexpr auto clock_error = std::chrono::hours(1);
constexpr auto change_limit = std::chrono::seconds(60);
/// How long a run waits for its turn on its pools before it is given up, and a removal, until the next run.
constexpr auto turn_limit = std::chrono::hours(1);

/// The same for the same run, also after a restart.
Microseconds jitter_of(const ScheduleRecord& schedule, Timestamp due) {
    if (schedule.jitter.count() == 0) return {};
    const std::size_t hash = std::hash<std::string>()(schedule.id.str() + std::to_string(to_usec(due)));
    const auto span = static_cast<std::uint64_t>(schedule.jitter.count()) + 1;
    return Microseconds(static_cast<Microseconds::rep>(hash % span));
}

std::string run_result(const std::exception_ptr& failure) {
    if (!failure) return "ok";
    const Error error = to_error(failure);
    const bool skipped = error.code() == ErrorCode::busy || error.code() == ErrorCode::not_running;
    return fmt::format("{}: {}", skipped ? "skipped" : "failed", error.what());
}

bool complete(const SnapshotRecord& snapshot) {
    return snapshot.status == SnapshotStatus::ok || snapshot.status == SnapshotStatus::partial;
}

}  // namespace

/// While it lives, no other run of the schedule begins.
class Scheduler::ActiveRun {
  public:
    ActiveRun(std::set<Uuid>& active, const Uuid& id) : active_(active), id_(id) { active_.insert(id); }
    ActiveRun(const ActiveRun&) = delete;
    ActiveRun& operator=(const ActiveRun&) = delete;
    ~ActiveRun() { active_.erase(id_); }

  private:
    std::set<Uuid>& active_;
    Uuid id_;
};

Scheduler::Scheduler(Engine& engine)
    : engine_(engine),
      taking_(engine.settings().scheduled_runs_per_pool, std::chrono::seconds(1)),
      removing_(engine.settings().scheduled_runs_per_pool, {}),
      tasks_(engine.executor()) {}

async::Task<> Scheduler::start() {
    for (const Uuid& id : engine_.catalog().ids(ObjectKind::schedule))
        if (engine_.catalog().schedule(id).running) co_await settle(id);
    tasks_.spawn(watch(), "watching the clock for schedules");
}

async::Task<> Scheduler::stop() {
    stopping_ = true;
    co_await tasks_.stop();
}

void Scheduler::look() {
    wanted_ = true;
    asked_.notify();
}

/// A run of an earlier life: where there is no snapshot of it, it is due again.
async::Task<> Scheduler::settle(Uuid id) {
    const Timestamp began = engine_.catalog().schedule(id).last;
    bool made = false;
    for (const auto& [other, snapshot] : engine_.catalog().snapshots())
        made = made || (snapshot.schedule == id && snapshot.created >= began && complete(snapshot));
    Edit edit = [made, began](ScheduleRecord& schedule) {
        schedule.running = false;
        schedule.last_result = made ? "ok" : "failed: the daemon ended in the middle";
        if (made) schedule.handled = std::max(schedule.handled, began);
    };
    co_await change(id, std::move(edit));
}

// --- the clock -------------------------------------------------------------------------------------

Timestamp Scheduler::due(const ScheduleRecord& schedule) const {
    const auto known = known_.find(schedule.id);
    if (known != known_.end() && known->second.calendar == schedule.calendar &&
        known->second.time_zone == schedule.time_zone && known->second.handled == schedule.handled)
        return known->second.due;
    Timestamp due{};
    try {
        due = Calendar(schedule.calendar, schedule.time_zone).next(schedule.handled).value_or(Timestamp{});
    } catch (const Error& error) {
        log().warning("schedule {}: {}", quote(schedule.name),
                      error.what());  // the zone is gone from the host
    }
    known_[schedule.id] = {schedule.calendar, schedule.time_zone, schedule.handled, due};
    return due;
}

Timestamp Scheduler::next(const Uuid& id) const {
    const ScheduleRecord& schedule = engine_.catalog().schedule(id);
    if (!schedule.enabled) return {};
    const Timestamp at = due(schedule);
    return at == Timestamp{} ? at : at + jitter_of(schedule, at);
}

std::chrono::microseconds Scheduler::until_next() const {
    auto wait = longest_nap;
    for (const auto& [id, schedule] : engine_.catalog().schedules())
        if (const Timestamp at = next(id); at != Timestamp{} && !active_.contains(id))
            wait = std::min(wait, std::max<std::chrono::microseconds>(at - now(), {}));
    return wait;
}

async::Task<> Scheduler::watch() {
    while (true) {
        begin_those_due();
        if (!wanted_) {
            std::exception_ptr over;
            co_await async::keep_failure(asked_.wait(async::after(until_next()), "the next run"), over);
            if (over && to_error(over).code() != ErrorCode::timeout) std::rethrow_exception(over);
        }
        wanted_ = false;
    }
}

void Scheduler::begin_those_due() {
    std::erase_if(known_, [this](const auto& entry) {
        return !engine_.catalog().has({ObjectKind::schedule, entry.first});
    });
    for (const Uuid& id : engine_.catalog().ids(ObjectKind::schedule)) {
        const Timestamp at = next(id);
        const bool wrong_clock = engine_.catalog().schedule(id).handled > now() + clock_error;
        if (active_.contains(id) || (!wrong_clock && (at == Timestamp{} || at > now()))) continue;
        if (wrong_clock)
            tasks_.spawn(change(id, [](ScheduleRecord& schedule) { schedule.handled = now(); }),
                         "a schedule whose clock was wrong");
        else
            tasks_.spawn(scheduled_run(id, std::make_shared<ActiveRun>(active_, id)), "a run of a schedule");
    }
}

async::Task<> Scheduler::change(Uuid id, Edit edit) {
    {
        const auto turn = co_await changing_.lock(async::after(change_limit), "changing a schedule");
        if (!engine_.catalog().has({ObjectKind::schedule, id})) co_return;
        ScheduleRecord schedule = engine_.catalog().schedule(id);
        edit(schedule);
        Changes changes;
        changes.put(ManifestStale{schedule.vm, true});
        changes.put(std::move(schedule));
        co_await engine_.catalog().commit(std::move(changes), Durability::power);
    }
    engine_.write_manifests();
    look();
}

async::Task<> Scheduler::commit(Changes changes) {
    {
        const auto turn = co_await changing_.lock(async::after(change_limit), "changing schedules");
        co_await engine_.catalog().commit(std::move(changes), Durability::power);
    }
    look();
}

// --- a run -----------------------------------------------------------------------------------------

std::set<Uuid> Scheduler::pools_of(const Uuid& vm) const {
    const Catalog& catalog = engine_.catalog();
    std::set<Uuid> pools;
    for (const Uuid& disk : catalog.disks_of_vm(vm))
        pools.insert(catalog.volume(catalog.disk(disk).active).pool);
    return pools;
}

async::Task<> Scheduler::begin(Uuid id) {
    Edit edit = [](ScheduleRecord& schedule) {
        schedule.running = true;
        schedule.last = now();
    };
    co_await change(id, std::move(edit));
}

async::Task<> Scheduler::end(Uuid id, std::exception_ptr failure, bool by_calendar) {
    std::string result = run_result(failure);
    if (engine_.catalog().has({ObjectKind::schedule, id}) && failure)
        log()
            .with("VOLCHAIN_VM", engine_.catalog().schedule(id).vm.str())
            .warning("{}: {}", engine_.catalog().describe({ObjectKind::schedule, id}), result);
    const bool over = failure != nullptr;
    Edit edit = [result, by_calendar, over](ScheduleRecord& schedule) {
        if (over) schedule.running = false;
        schedule.last_result = result;
        if (by_calendar) schedule.handled = std::max(schedule.handled, schedule.last);
    };
    co_await change(id, std::move(edit));
}

async::Task<> Scheduler::scheduled_run(Uuid id, std::shared_ptr<ActiveRun> active) {
    std::exception_ptr failure;
    co_await async::keep_failure(run_once(id), failure);
    if (failure && stopping_) std::rethrow_exception(failure);
    if (failure) {
        // The state directory cannot be written: what was done is not known, and not to be done again at once.
        log().warning("{}: {}", engine_.catalog().describe({ObjectKind::schedule, id}),
                      to_error(failure).what());
        co_await async::sleep_until(async::after(longest_nap));
    }
    active.reset();
    look();
}

async::Task<> Scheduler::run_once(Uuid id) {
    co_await begin(id);
    std::exception_ptr failure;
    co_await async::keep_failure(take_in_turn(id), failure);
    if (failure && stopping_) std::rethrow_exception(failure);  // the next daemon settles it
    co_await end(id, failure, true);
    if (!failure) co_await tidy(id);
}

async::Task<> Scheduler::take_in_turn(Uuid id) {
    const auto slot =
        co_await taking_.take(pools_of(engine_.catalog().schedule(id).vm), async::after(turn_limit));
    const Uuid vm = engine_.catalog().schedule(id).vm;
    const bool running = co_await engine_.runs(vm);
    if (!running && engine_.catalog().schedule(id).when_down == WhenDown::skip)
        throw Error(ErrorCode::not_running, "{} is down", engine_.catalog().describe({ObjectKind::vm, vm}));
    Uuid job;
    co_await take(id, engine_.catalog().schedule(id).owner_uid, job);
    co_await wait_for(job);
}

async::Task<> Scheduler::take(Uuid id, std::uint32_t uid, Uuid& job) {
    const Catalog& catalog = engine_.catalog();
    const ScheduleRecord& schedule = catalog.schedule(id);
    SnapshotRequest request(schedule.vm, scheduled_snapshot_name(catalog, schedule, now()));
    apply_snapshot_options(catalog, SnapshotOptions::from_json(schedule.snapshot), request);
    request.owner_uid = uid;
    request.schedule = id;
    // One that is down has none, and is to be kept all the same.
    if (engine_.vm(request.vm).down()) request.memory = false;
    job = co_await create_snapshot(engine_, std::move(request));
}

async::Task<> Scheduler::wait_for(Uuid id) {
    if (const JobPtr job = engine_.jobs().find(id)) co_await job->wait(async::no_deadline);
    const JobRecord& end = engine_.catalog().job(id);
    if (end.error) throw Error(*end.error);
}

async::Task<Uuid> Scheduler::run_now(Uuid id, std::uint32_t uid) {
    (void)engine_.catalog().schedule(id);
    if (active_.contains(id))
        throw Error(ErrorCode::busy, "a run of {} goes on",
                    engine_.catalog().describe({ObjectKind::schedule, id}));
    auto active = std::make_shared<ActiveRun>(active_, id);
    co_await begin(id);
    Uuid job;
    std::exception_ptr failure;
    co_await async::keep_failure(take(id, uid, job), failure);
    if (failure) co_await end(id, failure, false);
    if (failure) std::rethrow_exception(failure);
    tasks_.spawn(finish_by_hand(id, job, std::move(active)), "a run of a schedule");
    co_return job;
}

async::Task<> Scheduler::finish_by_hand(Uuid id, Uuid job, std::shared_ptr<ActiveRun> active) {
    std::exception_ptr failure;
    co_await async::keep_failure(wait_for(job), failure);
    if (failure && stopping_) std::rethrow_exception(failure);
    co_await end(id, failure, false);
    if (!failure) co_await tidy(id);
    active.reset();
    look();
}

// --- what is kept ----------------------------------------------------------------------------------

/// By the rules, then, for the oldest others, by the length of the chain; oldest first.
std::vector<Uuid> Scheduler::going(const ScheduleRecord& schedule) const {
    const Catalog& catalog = engine_.catalog();
    std::vector<KeptCandidate> own;
    std::vector<Uuid> failed;
    for (const Uuid& id : catalog.snapshots_of_vm(schedule.vm)) {
        const SnapshotRecord& snapshot = catalog.snapshot(id);
        if (snapshot.schedule != schedule.id) continue;
        if (complete(snapshot)) own.push_back({id, snapshot.created});
        // Its deletion ended halfway: it keeps nothing any more.
        if (snapshot.status == SnapshotStatus::failed) failed.push_back(id);
    }
    const TimeZone zone = Calendar(schedule.calendar, schedule.time_zone).zone();
    std::vector<Uuid> all = superfluous(schedule.keep, own, zone);
    all.insert(all.begin(), failed.begin(), failed.end());
    const std::vector<Uuid> too_long = over_length(catalog, schedule, own, all);
    all.insert(all.end(), too_long.begin(), too_long.end());
    return all;
}

/// One after the other. What somebody holds stays for the next run.
async::Task<> Scheduler::tidy(Uuid id) {
    if (!engine_.catalog().has({ObjectKind::schedule, id})) co_return;
    std::vector<std::string> left;
    const std::vector<Uuid> all = going(engine_.catalog().schedule(id));
    for (const Uuid& snapshot : all) {
        std::exception_ptr failure;
        co_await async::keep_failure(remove_in_turn(id, snapshot), failure);
        if (!failure) continue;
        if (stopping_) std::rethrow_exception(failure);
        left.push_back(fmt::format("{} ({})", engine_.catalog().describe({ObjectKind::snapshot, snapshot}),
                                   to_error(failure).what()));
    }
    std::string result = "ok";
    if (!left.empty()) {
        result += "; not removed yet: " + clipped(joined(left, "; "), 2000);
        log().notice("{}: {}", engine_.catalog().describe({ObjectKind::schedule, id}), result);
    }
    Edit edit = [result](ScheduleRecord& schedule) {
        schedule.running = false;
        schedule.last_result = result;
    };
    co_await change(id, std::move(edit));
}

async::Task<> Scheduler::remove_in_turn(Uuid id, Uuid snapshot) {
    const Catalog& catalog = engine_.catalog();
    if (!catalog.has({ObjectKind::schedule, id}) || !catalog.has({ObjectKind::snapshot, snapshot})) co_return;
    const auto slot = co_await removing_.take(pools_of(catalog.schedule(id).vm), async::after(turn_limit));
    // It may have become somebody else's meanwhile, as its disk was attached to another VM.
    if (!catalog.has({ObjectKind::schedule, id}) || !catalog.has({ObjectKind::snapshot, snapshot}) ||
        catalog.snapshot(snapshot).vm != catalog.schedule(id).vm)
        co_return;
    MergeOptions options;
    options.speed = catalog.schedule(id).speed;
    options.owner_uid = catalog.schedule(id).owner_uid;
    const Uuid job = co_await delete_snapshot(engine_, snapshot, false, options);
    co_await wait_for(job);
}

}  // namespace volchain::storage
