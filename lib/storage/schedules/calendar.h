// SPDX-License-Identifier: MIT
//
// Calendar: when something is due, as people write it: five fields of cron ("30 2 * * mon-fri"), a word (hourly, daily,
// ...), or systemd's OnCalendar ("Sat *-*-1..7 03:00 Europe/Berlin"). It answers one question, which moment is next, and
// knows neither the clock nor what is done then.
//
// When clocks change: what falls into the hour that is left out is due right after it. What falls into the hour that comes
// twice is due the first time only, unless it is due in every hour anyway.
#pragma once

#include <bitset>
#include <optional>
#include <string>
#include <string_view>

#include "storage/schedules/time_zone.h"

namespace volchain::storage {

class Calendar {
  public:
    static constexpr int first_year = 1970;
    static constexpr int last_year = 2199;
    using Years = std::bitset<last_year - first_year + 1>;

    /// What the text says, field by field; a bit for each value.
    struct Spec {
        Years years;
        std::bitset<13> months;
        std::bitset<32> days;
        std::bitset<32> days_from_end;  ///< 1: the last day of the month
        std::bitset<7> weekdays;        ///< 0: Sunday
        std::bitset<24> hours;
        std::bitset<60> minutes;
        unsigned second = 0;
        /// cron's own rule: where both the day of the month and the weekday are restricted, either will do.
        bool either_day = false;
        std::string zone;  ///< as the text itself says; empty: it does not
    };

    /// Throws InvalidArgument, saying what is wrong. `zone`: where the text names none; empty: the host's.
    Calendar(const std::string& text, const std::string& zone);

    /// The first moment after that one; none where there will never be one.
    [[nodiscard]] std::optional<Timestamp> next(Timestamp after) const;
    [[nodiscard]] const TimeZone& zone() const noexcept { return zone_; }

  private:
    [[nodiscard]] bool due_on(const Date& date) const;
    [[nodiscard]] std::optional<Timestamp> first_on(const Date& date, Timestamp after) const;

    Spec spec_;
    TimeZone zone_;
};

/// The text taken apart (calendar_text.cpp).
[[nodiscard]] Calendar::Spec parse_calendar(const std::string& text);

}  // namespace volchain::storage
