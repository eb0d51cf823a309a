// SPDX-License-Identifier: MIT
#include "daemon/schedule_object.h"

#include "storage/records/schedule_settings.h"

namespace volchain::daemon {

using storage::ObjectKind;
using storage::ScheduleRecord;

namespace {

std::vector<bus::ObjectPath> disk_paths(const Json& ids) {
    std::vector<bus::ObjectPath> paths;
    for (const Json& id : ids)
        paths.push_back(object_path(ObjectKind::disk, Uuid::parse(id.get<std::string>()).value_or(Uuid{})));
    return paths;
}

}  // namespace

storage::SnapshotOptions take_snapshot_options(bus::Options& options) {
    storage::SnapshotOptions all;
    all.profile = options.take<std::string>("profile");
    all.description = options.take<std::string>("description");
    all.disks = take_ids(options, "disks", ObjectKind::disk);
    all.exclude = take_ids(options, "exclude", ObjectKind::disk);
    all.quiesce = take_word<storage::QuiesceMode>(options, "quiesce");
    all.freeze_timeout = take_timeout(options, "freeze-timeout-usec");
    all.on_disk_failure = take_word<storage::OnDiskFailure>(options, "on-disk-failure");
    all.memory = options.take<bool>("memory");
    return all;
}

bus::Dict snapshot_options_dict(const Json& options) {
    bus::Dict dict;
    for (const auto& [name, value] : options.items()) {
        if (value.is_array())
            dict.emplace(name, disk_paths(value));
        else if (value.is_number())
            dict.emplace(name, value.get<std::uint64_t>());
        else if (value.is_boolean())
            dict.emplace(name, value.get<bool>());
        else
            dict.emplace(name, value.get<std::string>());
    }
    return dict;
}

storage::Scheduler::Edit take_schedule_options(bus::Options& options) {
    using storage::Keep;
    const std::vector<std::pair<std::uint32_t Keep::*, std::optional<std::uint32_t>>> keep{
        {&Keep::last, options.take<std::uint32_t>("keep-last")},
        {&Keep::hourly, options.take<std::uint32_t>("keep-hourly")},
        {&Keep::daily, options.take<std::uint32_t>("keep-daily")},
        {&Keep::weekly, options.take<std::uint32_t>("keep-weekly")},
        {&Keep::monthly, options.take<std::uint32_t>("keep-monthly")},
        {&Keep::yearly, options.take<std::uint32_t>("keep-yearly")},
    };
    const auto enabled = options.take<bool>("enabled");
    const auto zone = options.take<std::string>("time-zone");
    const auto jitter = options.take<std::uint64_t>("jitter-usec");
    constexpr std::uint64_t day_usec = 86'400'000'000;
    if (jitter && *jitter > day_usec)
        throw Error(ErrorCode::invalid_argument, "option 'jitter-usec': {} is more than {}, a day", *jitter,
                    day_usec);
    const auto when_down = take_word<storage::WhenDown>(options, "when-down");
    const auto max_chain = options.take<std::uint32_t>("max-chain");
    const auto speed = options.take<std::uint64_t>("speed");
    std::optional<Json> snapshot;
    if (auto inner = options.take<bus::Options>("snapshot")) {
        snapshot = take_snapshot_options(*inner).json();
        inner->finish();
    }
    return [=](ScheduleRecord& schedule) {
        for (const auto& [count, value] : keep)
            if (value) schedule.keep.*count = *value;
        if (enabled) schedule.enabled = *enabled;
        if (zone) schedule.time_zone = *zone;
        if (jitter) schedule.jitter = Microseconds(static_cast<Microseconds::rep>(*jitter));
        if (when_down) schedule.when_down = *when_down;
        if (max_chain) schedule.max_chain = *max_chain;
        if (speed) schedule.speed = *speed;
        if (snapshot) schedule.snapshot = *snapshot;
    };
}

bus::Interface<ScheduleObject> ScheduleObject::table() {
    bus::Interface<ScheduleObject> table(interface_name(ObjectKind::schedule), *this);
    table.method<&ScheduleObject::run_now>("RunNow", bus::in(), bus::out("job"))
        .method<&ScheduleObject::update>("Update", bus::in("options"), bus::out())
        .method<&ScheduleObject::remove>("Delete", bus::in(), bus::out())
        .property<&ScheduleObject::id>("Id", bus::Change::never)
        .property<&ScheduleObject::name>("Name", bus::Change::signalled)
        .property<&ScheduleObject::vm>("VM", bus::Change::never)
        .property<&ScheduleObject::calendar>("Calendar", bus::Change::signalled)
        .property<&ScheduleObject::time_zone>("TimeZone", bus::Change::signalled)
        .property<&ScheduleObject::enabled>("Enabled", bus::Change::signalled)
        .property<&ScheduleObject::running>("Running", bus::Change::signalled)
        .property<&ScheduleObject::next>("NextUsec", bus::Change::signalled)
        .property<&ScheduleObject::last>("LastUsec", bus::Change::signalled)
        .property<&ScheduleObject::last_result>("LastResult", bus::Change::signalled)
        .property<&ScheduleObject::keep>("Keep", bus::Change::signalled)
        .property<&ScheduleObject::max_chain>("MaxChain", bus::Change::signalled)
        .property<&ScheduleObject::jitter>("JitterUsec", bus::Change::signalled)
        .property<&ScheduleObject::when_down>("WhenDown", bus::Change::signalled)
        .property<&ScheduleObject::speed>("SpeedBytes", bus::Change::signalled)
        .property<&ScheduleObject::snapshot>("Snapshot", bus::Change::signalled)
        .property<&ScheduleObject::snapshots>("Snapshots", bus::Change::signalled)
        .property<&ScheduleObject::owner>("OwnerUid", bus::Change::never);
    return table;
}

async::Task<bus::ObjectPath> ScheduleObject::run_now(bus::Call call, Uuid id) {
    const uid_t owner = co_await call.sender_uid();
    const Uuid job = co_await engine_.schedules().run_now(id, owner);
    co_return object_path(ObjectKind::job, job);
}

async::Task<> ScheduleObject::update(bus::Call, Uuid id, bus::Options options) {
    auto name = options.take<std::string>("name");
    auto calendar = options.take<std::string>("calendar");
    auto more = take_schedule_options(options);
    options.finish();
    storage::Scheduler::Edit edit = [=](ScheduleRecord& schedule) {
        if (name) schedule.name = *name;
        if (calendar) schedule.calendar = *calendar;
        more(schedule);
    };
    co_await storage::update_schedule(engine_, id, std::move(edit));
}

async::Task<> ScheduleObject::remove(bus::Call, Uuid id) {
    co_await storage::delete_schedule(engine_, id);
}

bus::ObjectPath ScheduleObject::vm(Uuid id) const {
    return object_path(ObjectKind::vm, record(id).vm);
}

std::uint64_t ScheduleObject::next(Uuid id) const {
    return to_usec(engine_.schedules().next(id));
}
std::uint64_t ScheduleObject::last(Uuid id) const {
    return to_usec(record(id).last);
}

std::map<std::string, std::uint32_t> ScheduleObject::keep(Uuid id) const {
    std::map<std::string, std::uint32_t> all;
    for (const auto& [name, count] : storage::keep_rules) all.emplace(name, record(id).keep.*count);
    return all;
}

std::uint64_t ScheduleObject::jitter(Uuid id) const {
    return static_cast<std::uint64_t>(record(id).jitter.count());
}
std::string ScheduleObject::when_down(Uuid id) const {
    return std::string(word(record(id).when_down));
}
bus::Dict ScheduleObject::snapshot(Uuid id) const {
    return snapshot_options_dict(record(id).snapshot);
}

std::vector<bus::ObjectPath> ScheduleObject::snapshots(Uuid id) const {
    std::vector<Uuid> own;
    for (const auto& [snapshot, made] : engine_.catalog().snapshots())
        if (made.schedule == id) own.push_back(snapshot);
    return object_paths(ObjectKind::snapshot, own);
}

}  // namespace volchain::daemon
