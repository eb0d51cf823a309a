// SPDX-License-Identifier: MIT
//
// org.volchain1.Schedule: the schedules on the bus; and the options by which Manager.CreateSchedule makes them.
#pragma once

#include <map>

#include "daemon/objects.h"
#include "storage/schedules/schedules.h"
#include "storage/snapshots/snapshot_options.h"

namespace volchain::daemon {

/// The options of VM.CreateSnapshot, also as they stand in profiles and schedules.
[[nodiscard]] storage::SnapshotOptions take_snapshot_options(bus::Options& options);
/// The same as they are shown: paths for disks.
[[nodiscard]] bus::Dict snapshot_options_dict(const Json& options);

/// What the options of CreateSchedule and Schedule.Update that both have say.
[[nodiscard]] storage::Scheduler::Edit take_schedule_options(bus::Options& options);

class ScheduleObject {
  public:
    explicit ScheduleObject(storage::Engine& engine) : engine_(engine) {}
    [[nodiscard]] bus::Interface<ScheduleObject> table();

    async::Task<bus::ObjectPath> run_now(bus::Call call, Uuid id);
    async::Task<> update(bus::Call call, Uuid id, bus::Options options);
    async::Task<> remove(bus::Call call, Uuid id);

    [[nodiscard]] std::string id(Uuid id) const { return id.str(); }
    [[nodiscard]] std::string name(Uuid id) const { return record(id).name; }
    [[nodiscard]] bus::ObjectPath vm(Uuid id) const;
    [[nodiscard]] std::string calendar(Uuid id) const { return record(id).calendar; }
    [[nodiscard]] std::string time_zone(Uuid id) const { return record(id).time_zone; }
    [[nodiscard]] bool enabled(Uuid id) const { return record(id).enabled; }
    [[nodiscard]] bool running(Uuid id) const { return record(id).running; }
    [[nodiscard]] std::uint64_t next(Uuid id) const;
    [[nodiscard]] std::uint64_t last(Uuid id) const;
    [[nodiscard]] std::string last_result(Uuid id) const { return record(id).last_result; }
    [[nodiscard]] std::map<std::string, std::uint32_t> keep(Uuid id) const;
    [[nodiscard]] std::uint32_t max_chain(Uuid id) const { return record(id).max_chain; }
    [[nodiscard]] std::uint64_t jitter(Uuid id) const;
    [[nodiscard]] std::string when_down(Uuid id) const;
    [[nodiscard]] std::uint64_t speed(Uuid id) const { return record(id).speed; }
    [[nodiscard]] bus::Dict snapshot(Uuid id) const;
    [[nodiscard]] std::vector<bus::ObjectPath> snapshots(Uuid id) const;
    [[nodiscard]] std::uint32_t owner(Uuid id) const { return record(id).owner_uid; }

  private:
    [[nodiscard]] const storage::ScheduleRecord& record(const Uuid& id) const {
        return engine_.catalog().schedule(id);
    }

    storage::Engine& engine_;
};

}  // namespace volchain::daemon
