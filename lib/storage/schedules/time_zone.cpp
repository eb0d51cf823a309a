// SPDX-License-Identifier: MIT
#include "storage/schedules/time_zone.h"

#include <date/iso_week.h>
#include <date/tz.h>

#include <algorithm>

#include "base/error.h"
#include "base/text.h"

namespace volchain::storage {
namespace {

date::year_month_day gregorian(const Date& day) {
    return date::year(day.year) / date::month(day.month) / date::day(day.day);
}

Date from_days(date::local_days days) {
    const date::year_month_day day(days);
    return {static_cast<int>(day.year()), static_cast<unsigned>(day.month()),
            static_cast<unsigned>(day.day())};
}

date::local_days to_days(const Date& day) {
    return date::local_days(gregorian(day));
}

date::local_seconds to_local(const WallTime& wall) {
    return to_days(wall.date) + std::chrono::hours(wall.hour) + std::chrono::minutes(wall.minute) +
           std::chrono::seconds(wall.second);
}

const date::time_zone& zone_at(const void* zone) {
    return *static_cast<const date::time_zone*>(zone);
}

const date::time_zone* find_zone(const std::string& name) {
    // The library takes a name for the path of a file below the database's directory.
    const auto plain = [](unsigned char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '/' ||
               c == '_' || c == '-' || c == '+';
    };
    if (!std::all_of(name.begin(), name.end(), plain)) return nullptr;
    try {
        return name.empty() ? date::current_zone() : date::locate_zone(name);
    } catch (const std::exception&) {
        return nullptr;
    }
}

}  // namespace

Date next_day(const Date& date) {
    return from_days(to_days(date) + date::days(1));
}
Date previous_day(const Date& date) {
    return from_days(to_days(date) - date::days(1));
}
unsigned weekday(const Date& day) {
    return date::weekday(to_days(day)).c_encoding();
}
unsigned last_day_of_month(const Date& day) {
    const date::year_month_day_last last(date::year(day.year), date::month_day_last(date::month(day.month)));
    return static_cast<unsigned>(last.day());
}
IsoWeek iso_week(const Date& day) {
    const iso_week::year_weeknum_weekday week(to_days(day));
    return {static_cast<int>(week.year()), static_cast<unsigned>(week.weeknum())};
}

TimeZone::TimeZone(const std::string& name) : zone_(find_zone(name)) {
    if (zone_ == nullptr && name.empty()) zone_ = find_zone("UTC");
    if (zone_ == nullptr)
        throw Error(ErrorCode::invalid_argument,
                    "there is no time zone {}; \"timedatectl list-timezones\" has them", quote(name));
}

WallTime TimeZone::wall_time(Timestamp moment) const {
    const auto seconds = date::floor<std::chrono::seconds>(moment);
    const date::local_seconds local = zone_at(zone_).to_local(seconds);
    const auto midnight = date::floor<date::days>(local);
    const date::hh_mm_ss<std::chrono::seconds> time(local - midnight);
    return {from_days(midnight), static_cast<unsigned>(time.hours().count()),
            static_cast<unsigned>(time.minutes().count()), static_cast<unsigned>(time.seconds().count()),
            static_cast<int>(zone_at(zone_).get_info(seconds).offset.count())};
}

std::vector<Timestamp> TimeZone::moments(const WallTime& wall) const {
    const date::local_seconds local = to_local(wall);
    const date::local_info info = zone_at(zone_).get_info(local);
    const auto at = [&](const date::sys_info& side) {
        return Timestamp(local.time_since_epoch() - side.offset);
    };
    if (info.result == date::local_info::nonexistent) return {};
    if (info.result == date::local_info::ambiguous) return {at(info.first), at(info.second)};
    return {at(info.first)};
}

Timestamp TimeZone::after_gap(const WallTime& wall) const {
    return Timestamp(zone_at(zone_).get_info(to_local(wall)).first.end.time_since_epoch());
}

bool is_time_zone(const std::string& name) {
    return !name.empty() && find_zone(name) != nullptr;
}

}  // namespace volchain::storage
