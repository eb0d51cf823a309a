// SPDX-License-Identifier: MIT
//
// Scheduler: looks at the clock and takes the snapshots that schedules want, then removes those that they keep no longer.
// A run that was missed, as the host was down, is made up once. It takes and removes snapshots by the same operations as a
// user (create_snapshot.h, remove_volumes.h), so that their locks, holds and recovery are the same; only what a schedule
// made itself is ever removed by it. The Engine owns it; what a schedule is, its record says.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "async/condition.h"
#include "async/mutex.h"
#include "async/task_group.h"
#include "storage/records/changes.h"
#include "storage/records/records.h"
#include "storage/schedules/calendar.h"
#include "storage/schedules/pool_slots.h"

namespace volchain::storage {

class Engine;

class Scheduler {
  public:
    explicit Scheduler(Engine& engine);
    Scheduler(const Scheduler&) = delete;
    Scheduler& operator=(const Scheduler&) = delete;

    /// After recovery: the runs of an earlier life are settled, then the clock is watched.
    async::Task<> start();
    async::Task<> stop();

    /// When the next run begins; the epoch: never.
    [[nodiscard]] Timestamp next(const Uuid& schedule) const;
    /// A run that no calendar asked for. The job's id; Busy while a run of it goes on.
    async::Task<Uuid> run_now(Uuid schedule, std::uint32_t uid);

    using Edit = std::function<void(ScheduleRecord&)>;
    /// The only way to change a schedule that is there: one after the other, and with its VM's manifest.
    async::Task<> change(Uuid schedule, Edit edit);
    /// Changes by which schedules go.
    async::Task<> commit(Changes changes);
    /// A schedule was made, changed or removed.
    void look();

  private:
    class ActiveRun;
    /// What the calendar said when the record was last looked at.
    struct Known {
        std::string calendar;
        std::string time_zone;
        Timestamp handled;
        Timestamp due;  ///< the epoch: never again
    };

    async::Task<> watch();
    void begin_those_due();
    [[nodiscard]] std::chrono::microseconds until_next() const;
    [[nodiscard]] Timestamp due(const ScheduleRecord& schedule) const;
    async::Task<> settle(Uuid schedule);
    async::Task<> scheduled_run(Uuid schedule, std::shared_ptr<ActiveRun> active);
    async::Task<> run_once(Uuid schedule);
    async::Task<> take(Uuid schedule, std::uint32_t uid, Uuid& job);
    async::Task<> take_in_turn(Uuid schedule);
    async::Task<> finish_by_hand(Uuid schedule, Uuid job, std::shared_ptr<ActiveRun> active);
    async::Task<> wait_for(Uuid job);
    async::Task<> begin(Uuid schedule);
    async::Task<> end(Uuid schedule, std::exception_ptr failure, bool by_calendar);
    async::Task<> tidy(Uuid schedule);
    async::Task<> remove_in_turn(Uuid schedule, Uuid snapshot);
    [[nodiscard]] std::vector<Uuid> going(const ScheduleRecord& schedule) const;
    [[nodiscard]] std::set<Uuid> pools_of(const Uuid& vm) const;

    Engine& engine_;
    PoolSlots taking_;
    PoolSlots removing_;
    async::Mutex changing_;
    mutable std::map<Uuid, Known> known_;
    std::set<Uuid> active_;  ///< a run, or what follows it, goes on
    bool stopping_ = false;
    bool wanted_ = false;
    async::Condition asked_;
    async::TaskGroup tasks_;
};

}  // namespace volchain::storage
