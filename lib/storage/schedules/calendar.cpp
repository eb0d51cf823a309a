// SPDX-License-Identifier: MIT
#include "storage/schedules/calendar.h"

#include <algorithm>

#include "base/error.h"
#include "base/text.h"

namespace volchain::storage {

Calendar::Calendar(const std::string& text, const std::string& zone)
    : spec_(parse_calendar(text)), zone_(spec_.zone.empty() ? zone : spec_.zone) {
    if (!next(Timestamp{}))
        throw Error(ErrorCode::invalid_argument, "calendar {}: there is no such day", quote(text));
}

bool Calendar::due_on(const Date& date) const {
    const int year = date.year - first_year;
    if (year < 0 || date.year > last_year || !spec_.years.test(static_cast<std::size_t>(year))) return false;
    if (!spec_.months.test(date.month)) return false;
    const bool day =
        spec_.days.test(date.day) || spec_.days_from_end.test(last_day_of_month(date) - date.day + 1);
    const bool weekday = spec_.weekdays.test(storage::weekday(date));
    return spec_.either_day ? day || weekday : day && weekday;
}

std::optional<Timestamp> Calendar::first_on(const Date& date, Timestamp after) const {
    std::optional<Timestamp> first;
    if (!due_on(date)) return first;
    const auto consider = [&](Timestamp moment) {
        if (moment > after && (!first || moment < *first)) first = moment;
    };
    for (unsigned hour = 0; hour < 24; ++hour) {
        if (!spec_.hours.test(hour)) continue;
        for (unsigned minute = 0; minute < 60; ++minute) {
            if (!spec_.minutes.test(minute)) continue;
            const WallTime wall{date, hour, minute, spec_.second, 0};
            const std::vector<Timestamp> moments = zone_.moments(wall);
            if (moments.empty()) consider(zone_.after_gap(wall));
            for (const Timestamp moment : moments) {
                consider(moment);
                if (!spec_.hours.all()) break;
            }
        }
    }
    return first;
}

std::optional<Timestamp> Calendar::next(Timestamp after) const {
    // A clock that is set back over midnight shows a day again that was over, so days are looked at with their neighbours.
    Date day = previous_day(zone_.wall_time(after).date);
    for (; day.year <= last_year; day = next_day(day)) {
        if (day.year < first_year) continue;
        auto first = first_on(day, after);
        if (!first) continue;
        if (const auto second = first_on(next_day(day), after)) first = std::min(*first, *second);
        return first;
    }
    return std::nullopt;
}

}  // namespace volchain::storage
