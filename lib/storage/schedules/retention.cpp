// SPDX-License-Identifier: MIT
#include "storage/schedules/retention.h"

#include <algorithm>
#include <array>
#include <optional>

namespace volchain::storage {
namespace {

/// What tells one period from another; of a kind of period, all numbers but those that make it are 0.
using Period = std::array<int, 5>;

int plain(unsigned number) {
    return static_cast<int>(number);
}

Period hour_of(const WallTime& at) {
    return {at.date.year, plain(at.date.month), plain(at.date.day), plain(at.hour), at.offset};
}
Period day_of(const WallTime& at) {
    return {at.date.year, plain(at.date.month), plain(at.date.day)};
}
Period week_of(const WallTime& at) {
    const IsoWeek week = iso_week(at.date);
    return {week.year, plain(week.week)};
}
Period month_of(const WallTime& at) {
    return {at.date.year, plain(at.date.month)};
}
Period year_of(const WallTime& at) {
    return {at.date.year};
}

struct Rule {
    std::uint32_t Keep::*count;
    Period (*period)(const WallTime&);
};
constexpr std::array<Rule, 5> period_rules{{{&Keep::hourly, hour_of},
                                            {&Keep::daily, day_of},
                                            {&Keep::weekly, week_of},
                                            {&Keep::monthly, month_of},
                                            {&Keep::yearly, year_of}}};

}  // namespace

std::vector<Uuid> superfluous(const Keep& keep, std::vector<KeptCandidate> snapshots, const TimeZone& zone) {
    if (keep.all() || snapshots.empty()) return {};
    std::sort(snapshots.begin(), snapshots.end(), [](const KeptCandidate& a, const KeptCandidate& b) {
        return a.created != b.created ? a.created > b.created : a.id < b.id;
    });
    std::vector<WallTime> times;
    for (const KeptCandidate& snapshot : snapshots) times.push_back(zone.wall_time(snapshot.created));

    std::vector<bool> kept(snapshots.size(), false);
    kept.front() = true;
    for (std::size_t at = 0; at < std::min<std::size_t>(keep.last, snapshots.size()); ++at) kept[at] = true;
    for (const Rule& rule : period_rules) {
        std::uint32_t left = keep.*rule.count;
        std::optional<Period> before;
        for (std::size_t at = 0; at < snapshots.size() && left > 0; ++at) {
            const Period period = rule.period(times[at]);
            if (period == before) continue;
            before = period;
            kept[at] = true;
            --left;
        }
    }
    std::vector<Uuid> going;
    for (std::size_t at = snapshots.size(); at-- > 0;)
        if (!kept[at]) going.push_back(snapshots[at].id);
    return going;
}

}  // namespace volchain::storage
