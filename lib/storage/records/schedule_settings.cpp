// SPDX-License-Identifier: MIT
#include "storage/records/schedule_settings.h"

#include <limits>

namespace volchain::storage {
namespace {

std::uint32_t count_in(const JsonReader& settings, const char* name) {
    const std::uint64_t value = settings.u64_or(name, 0);
    if (value > std::numeric_limits<std::uint32_t>::max()) settings.at(name).fail("a smaller number");
    return static_cast<std::uint32_t>(value);
}

}  // namespace

Json schedule_settings(const ScheduleRecord& schedule) {
    Json keep = Json::object();
    for (const auto& [name, count] : keep_rules) keep[name] = schedule.keep.*count;
    return {{"calendar", schedule.calendar},
            {"time-zone", schedule.time_zone},
            {"enabled", schedule.enabled},
            {"jitter-usec", static_cast<std::uint64_t>(schedule.jitter.count())},
            {"when-down", word(schedule.when_down)},
            {"keep", std::move(keep)},
            {"max-chain", schedule.max_chain},
            {"speed", schedule.speed},
            {"snapshot", schedule.snapshot},
            {"owner-uid", schedule.owner_uid}};
}

void read_schedule_settings(const JsonReader& settings, ScheduleRecord& schedule) {
    schedule.calendar = settings.at("calendar").string();
    schedule.time_zone = settings.string_or("time-zone", "");
    schedule.enabled = settings.boolean_or("enabled", true);
    schedule.jitter = Microseconds(static_cast<Microseconds::rep>(settings.u64_or("jitter-usec", 0)));
    const auto when_down = from_word<WhenDown>(settings.string_or("when-down", word(WhenDown::skip)));
    if (!when_down) settings.at("when-down").fail("skip or snapshot");
    schedule.when_down = *when_down;
    if (const auto keep = settings.find("keep"))
        for (const auto& [name, count] : keep_rules) schedule.keep.*count = count_in(*keep, name);
    schedule.max_chain = count_in(settings, "max-chain");
    schedule.speed = settings.u64_or("speed", 0);
    if (const auto snapshot = settings.find("snapshot")) schedule.snapshot = snapshot->json();
    schedule.owner_uid = count_in(settings, "owner-uid");
}

}  // namespace volchain::storage
