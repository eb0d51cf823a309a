// SPDX-License-Identifier: MIT
#include "storage/schedules/retention.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <set>

#include "storage/schedules/calendar.h"

namespace volchain::storage::retention_test {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

/// A clock that is moved from run to run, and the snapshots that are there then.
class Year {
  public:
    Year(const std::string& calendar, const std::string& zone, const Keep& keep)
        : calendar_(calendar, zone), keep_(keep) {}

    Year& run(const Date& from, const Date& to) {
        Timestamp now = moment(from);
        const Timestamp end = moment(to);
        for (auto next = calendar_.next(now); next && *next < end; next = calendar_.next(now)) {
            now = *next;
            ++runs_;
            snapshots_.push_back({Uuid::make(), now});
            const std::vector<Uuid> going = superfluous(keep_, snapshots_, calendar_.zone());
            const std::set<Uuid> gone(going.begin(), going.end());
            EXPECT_EQ(gone.size(), going.size());
            std::erase_if(snapshots_, [&](const KeptCandidate& one) { return gone.contains(one.id); });
        }
        return *this;
    }

    [[nodiscard]] int runs() const { return runs_; }
    [[nodiscard]] std::vector<std::string> kept() const {
        std::vector<std::string> all;
        for (const KeptCandidate& one : snapshots_) {
            const WallTime wall = calendar_.zone().wall_time(one.created);
            all.push_back(fmt::format("{:02}-{:02} {:02}:{:02} {:+}", wall.date.month, wall.date.day,
                                      wall.hour, wall.minute, wall.offset / 3600));
        }
        return all;
    }

  private:
    [[nodiscard]] Timestamp moment(const Date& date) const {
        return calendar_.zone().moments({date, 0, 0, 0, 0}).front() - Microseconds(1);
    }

    Calendar calendar_;
    Keep keep_;
    std::vector<KeptCandidate> snapshots_;
    int runs_ = 0;
};

TEST(Retention, AYearOfDaysWeeksAndMonths) {
    Keep keep;
    keep.daily = 7;
    keep.weekly = 4;
    keep.monthly = 12;
    Year year("30 2 * * *", "Europe/Berlin", keep);
    year.run({2024, 1, 1}, {2025, 1, 1});
    EXPECT_EQ(year.runs(), 366);
    // The last of each month; on 31 March there was no 02:30. Four Sundays and the last Tuesday. Seven days.
    EXPECT_THAT(year.kept(),
                ElementsAre("01-31 02:30 +1", "02-29 02:30 +1", "03-31 03:00 +2", "04-30 02:30 +2",
                            "05-31 02:30 +2", "06-30 02:30 +2", "07-31 02:30 +2", "08-31 02:30 +2",
                            "09-30 02:30 +2", "10-31 02:30 +1", "11-30 02:30 +1", "12-15 02:30 +1",
                            "12-22 02:30 +1", "12-25 02:30 +1", "12-26 02:30 +1", "12-27 02:30 +1",
                            "12-28 02:30 +1", "12-29 02:30 +1", "12-30 02:30 +1", "12-31 02:30 +1"));
}

/// The same on the days after each change of the clocks: not a day more or less.
TEST(Retention, AcrossBothClockChanges) {
    Keep keep;
    keep.daily = 4;
    EXPECT_THAT(Year("30 2 * * *", "Europe/Berlin", keep).run({2024, 3, 1}, {2024, 4, 2}).kept(),
                ElementsAre("03-29 02:30 +1", "03-30 02:30 +1", "03-31 03:00 +2", "04-01 02:30 +2"));
    EXPECT_THAT(Year("30 2 * * *", "Europe/Berlin", keep).run({2024, 10, 1}, {2024, 10, 29}).kept(),
                ElementsAre("10-25 02:30 +2", "10-26 02:30 +2", "10-27 02:30 +2", "10-28 02:30 +1"));
    Keep hours;
    hours.hourly = 4;
    EXPECT_THAT(Year("*/30 0-3 * * *", "Europe/Berlin", hours).run({2024, 10, 27}, {2024, 10, 28}).kept(),
                ElementsAre("10-27 00:30 +2", "10-27 01:30 +2", "10-27 02:30 +2", "10-27 03:30 +1"));
    EXPECT_THAT(Year("*/30 * * * *", "Europe/Berlin", hours).run({2024, 10, 26}, {2024, 10, 27}).kept(),
                ElementsAre("10-26 20:30 +2", "10-26 21:30 +2", "10-26 22:30 +2", "10-26 23:30 +2"));
}

TEST(Retention, BothHoursThatAClockShowsTwiceCount) {
    Keep keep;
    keep.hourly = 3;
    const TimeZone zone("Europe/Berlin");
    const auto twice = zone.moments({{2024, 10, 27}, 2, 10, 0, 0});
    ASSERT_EQ(twice.size(), 2U);
    const auto three = zone.moments({{2024, 10, 27}, 3, 10, 0, 0}).front();
    const std::vector<KeptCandidate> all{
        {Uuid::make(), twice[0]}, {Uuid::make(), twice[1]}, {Uuid::make(), three}};
    EXPECT_THAT(superfluous(keep, all, zone), IsEmpty());
}

TEST(Retention, WeeksBeginOnMondayAndBelongToTheYearOfTheirThursday) {
    Keep keep;
    keep.weekly = 2;
    // 30 December 2024 is a Monday: with 1 January it is one week.
    EXPECT_THAT(Year("daily", "UTC", keep).run({2024, 12, 20}, {2025, 1, 3}).kept(),
                ElementsAre("12-29 00:00 +0", "01-02 00:00 +0"));
}

TEST(Retention, YearsAndTheLast) {
    Keep keep;
    keep.yearly = 3;
    keep.last = 2;
    EXPECT_THAT(Year("monthly", "UTC", keep).run({2021, 1, 1}, {2024, 3, 15}).kept(),
                ElementsAre("12-01 00:00 +0", "12-01 00:00 +0", "02-01 00:00 +0", "03-01 00:00 +0"));
}

TEST(Retention, WithoutARuleAllAreKept) {
    EXPECT_EQ(Year("daily", "UTC", Keep()).run({2024, 1, 1}, {2024, 2, 1}).kept().size(), 31U);
}

TEST(Retention, PeriodsWithoutASnapshotDoNotCount) {
    Keep keep;
    keep.daily = 3;
    const TimeZone zone("UTC");
    std::vector<KeptCandidate> all;
    for (const unsigned day : {1U, 2U, 10U, 20U})
        all.push_back({Uuid::make(), zone.moments({{2024, 5, day}, 1, 0, 0, 0}).front()});
    EXPECT_THAT(superfluous(keep, all, zone), ElementsAre(all.front().id));
}

}  // namespace
}  // namespace volchain::storage::retention_test
