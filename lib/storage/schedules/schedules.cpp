// SPDX-License-Identifier: MIT
#include "storage/schedules/schedules.h"

#include <algorithm>

#include "base/text.h"
#include "storage/snapshots/snapshot_options.h"
#include "storage/vms/adoption.h"
#include "storage/vms/disk_snapshots.h"

namespace volchain::storage {
namespace {

/// A snapshot's name is the schedule's and the time: 21 bytes more, and some to tell two of one second apart.
constexpr std::size_t max_schedule_name = 96;
constexpr Microseconds max_jitter = std::chrono::hours(24);
constexpr std::size_t max_schedules = 64;  ///< of one VM
constexpr std::uint32_t min_chain = 2;     ///< a snapshot and what covers it

void check_schedule(const Catalog& catalog, const ScheduleRecord& schedule) {
    check_name("schedule", schedule.name);
    if (schedule.name.size() > max_schedule_name)
        throw Error(ErrorCode::invalid_argument, "schedule name {}: longer than {} bytes",
                    quote(schedule.name), max_schedule_name);
    for (const Uuid& id : catalog.schedules_of_vm(schedule.vm))
        if (id != schedule.id && catalog.schedule(id).name == schedule.name)
            throw Error(ErrorCode::already_exists, "{} has a schedule {} already ({})",
                        catalog.describe({ObjectKind::vm, schedule.vm}), quote(schedule.name), id.str());
    (void)Calendar(schedule.calendar, schedule.time_zone);
    (void)TimeZone(schedule.time_zone);
    if (schedule.jitter > max_jitter)
        throw Error(ErrorCode::invalid_argument, "option 'jitter-usec': more than a day");
    if (schedule.max_chain != 0 && schedule.max_chain < min_chain)
        throw Error(ErrorCode::invalid_argument,
                    "option 'max-chain': a disk with a snapshot has {} layers at least", min_chain);
    check_snapshot_options(catalog, schedule.vm, SnapshotOptions::from_json(schedule.snapshot));
}

}  // namespace

async::Task<Uuid> create_schedule(Engine& engine, Uuid vm, Scheduler::Edit edit) {
    const Catalog& catalog = engine.catalog();
    (void)catalog.vm(vm);
    ScheduleRecord schedule;
    schedule.id = Uuid::make();
    schedule.vm = vm;
    schedule.handled = now();
    edit(schedule);
    check_schedule(catalog, schedule);
    if (catalog.schedules_of_vm(vm).size() >= max_schedules)
        throw Error(ErrorCode::invalid_argument, "{} has {} schedules already",
                    catalog.describe({ObjectKind::vm, vm}), max_schedules);
    const Uuid id = schedule.id;
    // So that it is not forgotten meanwhile, nor another one of that name made.
    const auto held = engine.locks().take({{ObjectKind::vm, vm}}, "a schedule being made", Uuid{});
    Changes changes;
    changes.put(std::move(schedule)).put(ManifestStale{vm, true});
    co_await engine.catalog().commit(std::move(changes), Durability::power);
    engine.write_manifests();
    engine.schedules().look();
    co_return id;
}

async::Task<> update_schedule(Engine& engine, Uuid id, Scheduler::Edit edit) {
    (void)engine.catalog().schedule(id);
    Scheduler::Edit checked = [&catalog = engine.catalog(),
                               edit = std::move(edit)](ScheduleRecord& schedule) {
        const ScheduleRecord before = schedule;
        edit(schedule);
        check_schedule(catalog, schedule);
        const bool other = schedule.calendar != before.calendar || schedule.time_zone != before.time_zone;
        if (other || (schedule.enabled && !before.enabled)) schedule.handled = now();
    };
    co_await engine.schedules().change(id, std::move(checked));
}

async::Task<> delete_schedule(Engine& engine, Uuid id) {
    const Uuid vm = engine.catalog().schedule(id).vm;
    Changes changes;
    changes.remove(ObjectKind::schedule, id).put(ManifestStale{vm, true});
    co_await engine.schedules().commit(std::move(changes));
    engine.write_manifests();
}

std::string scheduled_snapshot_name(const Catalog& catalog, const ScheduleRecord& schedule, Timestamp at) {
    return free_name(schedule.name + " " + format_utc(at), snapshot_names(catalog, schedule.vm));
}

std::vector<Uuid> over_length(const Catalog& catalog, const ScheduleRecord& schedule,
                              std::vector<KeptCandidate> own, const std::vector<Uuid>& going) {
    if (schedule.max_chain == 0 || own.empty()) return {};
    std::sort(own.begin(), own.end(),
              [](const KeptCandidate& a, const KeptCandidate& b) { return a.created < b.created; });
    own.pop_back();
    const auto goes = [](const std::vector<Uuid>& list, const Uuid& id) {
        return std::find(list.begin(), list.end(), id) != list.end();
    };
    std::vector<Uuid> more;
    for (const Uuid& disk : catalog.disks_of_vm(schedule.vm)) {
        const std::vector<Uuid> chain = catalog.chain(catalog.disk(disk).active);
        const auto in_chain = [&](const Uuid& id) {
            const auto& parts = catalog.snapshot(id).disks;
            return std::any_of(parts.begin(), parts.end(), [&](const SnapshotDisk& part) {
                return part.disk == disk && std::find(chain.begin(), chain.end(), part.volume) != chain.end();
            });
        };
        const auto gone = std::count_if(going.begin(), going.end(), in_chain) +
                          std::count_if(more.begin(), more.end(), in_chain);
        auto length = static_cast<std::ptrdiff_t>(chain.size()) - gone;
        for (const KeptCandidate& snapshot : own) {
            if (length <= static_cast<std::ptrdiff_t>(schedule.max_chain)) break;
            if (goes(going, snapshot.id) || goes(more, snapshot.id) || !in_chain(snapshot.id)) continue;
            more.push_back(snapshot.id);
            --length;
        }
    }
    return more;
}

}  // namespace volchain::storage
