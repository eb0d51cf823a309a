// SPDX-License-Identifier: MIT
#include "storage/schedules/calendar.h"

#include <gmock/gmock.h>

#include <cstdio>

#include "base/error.h"

namespace volchain::storage::calendar_test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

/// "2024-03-31 03:00 +2": as a clock of the zone shows it, with its distance from UTC in hours.
std::string shown(const TimeZone& zone, Timestamp moment) {
    const WallTime wall = zone.wall_time(moment);
    return fmt::format("{:04}-{:02}-{:02} {:02}:{:02}{} {:+}", wall.date.year, wall.date.month, wall.date.day,
                       wall.hour, wall.minute, wall.second == 0 ? "" : fmt::format(":{:02}", wall.second),
                       wall.offset / 3600);
}

Timestamp utc(int year, unsigned month, unsigned day, unsigned hour = 0, unsigned minute = 0) {
    return TimeZone("UTC").moments({{year, month, day}, hour, minute, 0, 0}).front();
}

std::vector<std::string> runs(const std::string& text, Timestamp after, int count,
                              const std::string& zone = "Europe/Berlin") {
    const Calendar calendar(text, zone);
    std::vector<std::string> all;
    for (int i = 0; i < count; ++i) {
        const auto next = calendar.next(after);
        if (!next) break;
        all.push_back(shown(calendar.zone(), *next));
        after = *next;
    }
    return all;
}

std::string refusal(const std::string& text) {
    try {
        const Calendar calendar(text, "UTC");
        return "taken";
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
        return error.what();
    }
}

const Timestamp november = utc(2023, 11, 14, 22, 13);  // a Tuesday

TEST(CalendarText, FiveFieldsOfCron) {
    EXPECT_THAT(runs("30 2 * * *", november, 2, "UTC"),
                ElementsAre("2023-11-15 02:30 +0", "2023-11-16 02:30 +0"));
    EXPECT_THAT(runs("*/20 22,23 * * *", november, 4, "UTC"),
                ElementsAre("2023-11-14 22:20 +0", "2023-11-14 22:40 +0", "2023-11-14 23:00 +0",
                            "2023-11-14 23:20 +0"));
    EXPECT_THAT(runs("5 4 1-7/3 jan-mar *", november, 4, "UTC"),
                ElementsAre("2024-01-01 04:05 +0", "2024-01-04 04:05 +0", "2024-01-07 04:05 +0",
                            "2024-02-01 04:05 +0"));
    EXPECT_THAT(runs("0 12 * * fri-sun", november, 4, "UTC"),
                ElementsAre("2023-11-17 12:00 +0", "2023-11-18 12:00 +0", "2023-11-19 12:00 +0",
                            "2023-11-24 12:00 +0"));
    EXPECT_EQ(runs("0 0 * * 7", november, 3, "UTC"), runs("0 0 * * 0", november, 3, "UTC"));
    EXPECT_EQ(runs("0\t0 * *  MON", november, 3, "UTC"), runs("0 0 * * 1", november, 3, "UTC"));
    EXPECT_THAT(runs("10/25 0 * * *", november, 3, "UTC"),
                ElementsAre("2023-11-15 00:10 +0", "2023-11-15 00:35 +0", "2023-11-16 00:10 +0"));
}

/// crontab(5): either of the two days, where both are restricted.
TEST(CalendarText, DayOfTheMonthOrWeekday) {
    EXPECT_THAT(runs("0 0 17 * wed", november, 4, "UTC"),
                ElementsAre("2023-11-15 00:00 +0", "2023-11-17 00:00 +0", "2023-11-22 00:00 +0",
                            "2023-11-29 00:00 +0"));
    EXPECT_THAT(runs("0 0 */10 * wed", november, 1, "UTC"), ElementsAre("2024-01-31 00:00 +0"));
}

TEST(CalendarText, Words) {
    EXPECT_THAT(runs("hourly", november, 1, "UTC"), ElementsAre("2023-11-14 23:00 +0"));
    EXPECT_THAT(runs("daily", november, 1, "UTC"), ElementsAre("2023-11-15 00:00 +0"));
    EXPECT_THAT(runs("weekly", november, 1, "UTC"), ElementsAre("2023-11-20 00:00 +0"));
    EXPECT_THAT(runs("monthly", november, 2, "UTC"),
                ElementsAre("2023-12-01 00:00 +0", "2024-01-01 00:00 +0"));
    EXPECT_THAT(runs("quarterly", november, 2, "UTC"),
                ElementsAre("2024-01-01 00:00 +0", "2024-04-01 00:00 +0"));
    EXPECT_THAT(runs("semiannually", november, 2, "UTC"),
                ElementsAre("2024-01-01 00:00 +0", "2024-07-01 00:00 +0"));
    EXPECT_THAT(runs("Yearly", november, 1, "UTC"), ElementsAre("2024-01-01 00:00 +0"));
    EXPECT_THAT(runs("minutely", november, 1, "UTC"), ElementsAre("2023-11-14 22:14 +0"));
    EXPECT_THAT(runs("daily America/New_York", november, 1, "UTC"), ElementsAre("2023-11-15 00:00 -5"));
}

/// What systemd-analyze calendar says of the same.
TEST(CalendarText, OnCalendar) {
    EXPECT_THAT(runs("Sat,Sun 08:05:40", november, 2, "UTC"),
                ElementsAre("2023-11-18 08:05:40 +0", "2023-11-19 08:05:40 +0"));
    EXPECT_THAT(runs("Mon *-05-03", november, 2, "UTC"),
                ElementsAre("2027-05-03 00:00 +0", "2032-05-03 00:00 +0"));
    EXPECT_THAT(runs("2027-03-05 05:40", november, 2, "UTC"), ElementsAre("2027-03-05 05:40 +0"));
    EXPECT_THAT(runs("*-*~01", november, 4, "UTC"),
                ElementsAre("2023-11-30 00:00 +0", "2023-12-31 00:00 +0", "2024-01-31 00:00 +0",
                            "2024-02-29 00:00 +0"));
    EXPECT_THAT(runs("*-02~03", november, 2, "UTC"),
                ElementsAre("2024-02-27 00:00 +0", "2025-02-26 00:00 +0"));
    EXPECT_THAT(runs("*-*~07/1 06:00", november, 2, "UTC"),
                ElementsAre("2023-11-24 06:00 +0", "2023-11-25 06:00 +0"));
    EXPECT_THAT(runs("Mon *-*-1..7 03:00", november, 2, "UTC"),
                ElementsAre("2023-12-04 03:00 +0", "2024-01-01 03:00 +0"));
    EXPECT_THAT(runs("*-1,3..5-2/10", november, 4, "UTC"),
                ElementsAre("2024-01-02 00:00 +0", "2024-01-12 00:00 +0", "2024-01-22 00:00 +0",
                            "2024-03-02 00:00 +0"));
    EXPECT_THAT(runs("*-*-* 0/6:05", november, 2, "UTC"),
                ElementsAre("2023-11-15 00:05 +0", "2023-11-15 06:05 +0"));
    EXPECT_THAT(runs("*:0/15", november, 2, "UTC"),
                ElementsAre("2023-11-14 22:15 +0", "2023-11-14 22:30 +0"));
    EXPECT_THAT(runs("*-2-29 04:00", november, 2, "UTC"),
                ElementsAre("2024-02-29 04:00 +0", "2028-02-29 04:00 +0"));
    EXPECT_THAT(runs("Mon 10:00 America/New_York", november, 1, "UTC"), ElementsAre("2023-11-20 10:00 -5"));
    EXPECT_THAT(runs("Monday..Wednesday", november, 2, "UTC"),
                ElementsAre("2023-11-15 00:00 +0", "2023-11-20 00:00 +0"));
}

TEST(CalendarText, WhatIsNone) {
    EXPECT_THAT(refusal(""), HasSubstr("empty"));
    EXPECT_THAT(refusal("60 * * * *"), HasSubstr("minute 60 is not from 0 to 59"));
    EXPECT_THAT(refusal("0 0 0 * *"), HasSubstr("day of the month 0"));
    EXPECT_THAT(refusal("0 0 * 13 *"), HasSubstr("month 13"));
    EXPECT_THAT(refusal("0 0 * * 8"), HasSubstr("weekday 8"));
    EXPECT_THAT(refusal("10-5 * * * *"), HasSubstr("backwards"));
    EXPECT_THAT(refusal("*/0 * * * *"), HasSubstr("0 is not from 1"));
    EXPECT_THAT(refusal("1/2/3 * * * *"), HasSubstr("two steps"));
    EXPECT_THAT(refusal("-1 * * * *"), HasSubstr("no number"));
    EXPECT_THAT(refusal("99999999999 * * * *"), HasSubstr("no number"));
    EXPECT_THAT(refusal("* * 30 2 *"), HasSubstr("no such day"));
    EXPECT_THAT(refusal("*-02-30"), HasSubstr("no such day"));
    EXPECT_THAT(refusal("2001-01-01 00:00 2002-01-01"), HasSubstr("neither a time nor"));
    EXPECT_THAT(refusal("sometimes"), HasSubstr("no weekday"));
    EXPECT_THAT(refusal("25:00"), HasSubstr("hour 25"));
    EXPECT_THAT(refusal("*:*:*"), HasSubstr("once a minute"));
    EXPECT_THAT(refusal("12:00 Europe/Atlantis"), HasSubstr("time zone"));
    EXPECT_THAT(refusal("UTC"), HasSubstr("no time"));
    EXPECT_THAT(refusal(std::string(10000, '*')), HasSubstr("256"));
}

TEST(CalendarZones, WhatIsNoneIsRefused) {
    for (const char* name :
         {"Europe/Atlantis", "../../etc/passwd", "/etc/localtime", "Europe", "posixrules\n", "\xff"})
        EXPECT_THROW(TimeZone{name}, Error) << name;
}

// --- when clocks change ------------------------------------------------------------------------------

/// Clocks go from 02:00 to 03:00 on 2024-03-31.
TEST(CalendarClockChange, WhatFallsIntoTheGapComesRightAfterIt) {
    EXPECT_THAT(runs("30 2 * * *", utc(2024, 3, 30, 12), 3),
                ElementsAre("2024-03-31 03:00 +2", "2024-04-01 02:30 +2", "2024-04-02 02:30 +2"));
    EXPECT_THAT(runs("*-*-* 02:15,45", utc(2024, 3, 30, 12), 2),
                ElementsAre("2024-03-31 03:00 +2", "2024-04-01 02:15 +2"));
    EXPECT_THAT(runs("hourly", utc(2024, 3, 30, 23, 30), 3),
                ElementsAre("2024-03-31 01:00 +1", "2024-03-31 03:00 +2", "2024-03-31 04:00 +2"));
}

/// They go from 03:00 back to 02:00 on 2024-10-27.
TEST(CalendarClockChange, WhatFallsIntoTheHourThatComesTwiceIsDueOnce) {
    EXPECT_THAT(runs("30 2 * * *", utc(2024, 10, 26, 12), 2),
                ElementsAre("2024-10-27 02:30 +2", "2024-10-28 02:30 +1"));
    EXPECT_THAT(runs("0 */2 * * *", utc(2024, 10, 26, 22, 30), 2),
                ElementsAre("2024-10-27 02:00 +2", "2024-10-27 04:00 +1"));
}

TEST(CalendarClockChange, WhatIsDueEveryHourIsDueInBothOfThem) {
    EXPECT_THAT(runs("hourly", utc(2024, 10, 26, 23, 30), 4),
                ElementsAre("2024-10-27 02:00 +2", "2024-10-27 02:00 +1", "2024-10-27 03:00 +1",
                            "2024-10-27 04:00 +1"));
    EXPECT_THAT(runs("*/30 * * * *", utc(2024, 10, 27, 0, 15), 3),
                ElementsAre("2024-10-27 02:30 +2", "2024-10-27 02:00 +1", "2024-10-27 02:30 +1"));
}

/// Where clocks change at midnight a day may begin at one, or be over twice.
TEST(CalendarClockChange, AtMidnight) {
    EXPECT_THAT(runs("daily", utc(2018, 11, 3, 12), 2, "America/Sao_Paulo"),
                ElementsAre("2018-11-04 01:00 -2", "2018-11-05 00:00 -2"));
    EXPECT_THAT(runs("30 23 * * *", utc(2018, 2, 17, 12), 2, "America/Sao_Paulo"),
                ElementsAre("2018-02-17 23:30 -2", "2018-02-18 23:30 -3"));
    EXPECT_THAT(runs("*/30 * * * *", utc(2018, 2, 18, 1, 15), 4, "America/Sao_Paulo"),
                ElementsAre("2018-02-17 23:30 -2", "2018-02-17 23:00 -3", "2018-02-17 23:30 -3",
                            "2018-02-18 00:00 -3"));
}

/// A year has as many days as it has, whatever the clocks do; none is due twice.
TEST(CalendarClockChange, OnceADayForAYear) {
    for (const char* zone :
         {"Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Sao_Paulo", "UTC"})
        for (const char* text : {"0 0 * * *", "30 1 * * *", "0 2 * * *", "15 2 * * *", "30 23 * * *"}) {
            const Calendar calendar(text, zone);
            const TimeZone there(zone);
            Timestamp at = there.moments({{2017, 12, 31}, 23, 45, 0, 0}).front();
            const Timestamp end = there.moments({{2018, 12, 31}, 23, 45, 0, 0}).front();
            int count = 0;
            std::optional<Date> before;
            for (auto next = calendar.next(at); *next <= end; next = calendar.next(*next)) {
                const Date date = there.wall_time(*next).date;
                EXPECT_NE(date, before) << text << zone;
                before = date;
                ++count;
            }
            EXPECT_EQ(count, 365) << text << ' ' << zone;
        }
}

}  // namespace
}  // namespace volchain::storage::calendar_test
