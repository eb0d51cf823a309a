// SPDX-License-Identifier: MIT
//
// TimeZone: moments as a clock on the wall of some place shows them, and back, by the host's time zone database. Daylight
// saving and its changes over the years are the database's and its library's matter (date/tz.h), which is seen only here.
#pragma once

#include <compare>
#include <optional>
#include <string>
#include <vector>

#include "base/timestamp.h"

namespace volchain::storage {

/// A date of the Gregorian calendar.
struct Date {
    int year = 0;
    unsigned month = 0;  ///< 1 to 12
    unsigned day = 0;    ///< 1 to 31
    auto operator<=>(const Date&) const = default;
};
[[nodiscard]] Date next_day(const Date& date);
[[nodiscard]] Date previous_day(const Date& date);
/// 0: Sunday.
[[nodiscard]] unsigned weekday(const Date& date);
[[nodiscard]] unsigned last_day_of_month(const Date& date);
/// Of ISO 8601, where a week begins on Monday and belongs to the year that has its Thursday.
struct IsoWeek {
    int year = 0;
    unsigned week = 0;
    auto operator<=>(const IsoWeek&) const = default;
};
[[nodiscard]] IsoWeek iso_week(const Date& date);

struct WallTime {
    Date date;
    unsigned hour = 0;
    unsigned minute = 0;
    unsigned second = 0;
    /// Seconds east of Greenwich then: what tells the two hours apart that a clock shows twice.
    int offset = 0;
};

class TimeZone {
  public:
    /// "Europe/Berlin", "UTC"; empty: that of the host. InvalidArgument where the database has no such zone.
    explicit TimeZone(const std::string& name);

    [[nodiscard]] WallTime wall_time(Timestamp moment) const;
    /// The moments at which a clock shows this (the offset does not count): one; two when it is set back; none when it is
    /// set forward over it.
    [[nodiscard]] std::vector<Timestamp> moments(const WallTime& wall) const;
    /// The first moment after a time that no clock shows.
    [[nodiscard]] Timestamp after_gap(const WallTime& wall) const;

  private:
    const void* zone_;  ///< date::time_zone, which lives as long as the program
};

[[nodiscard]] bool is_time_zone(const std::string& name);

}  // namespace volchain::storage
