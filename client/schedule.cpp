// SPDX-License-Identifier: MIT
//
// volchainctl schedule: snapshots by the calendar.
#include <algorithm>
#include <array>
#include <charconv>
#include <tuple>

#include "base/text.h"
#include "client/job_wait.h"
#include "client/properties.h"
#include "client/show.h"
#include "client/snapshot_options.h"
#include "client/usage_error.h"
#include "client/verb.h"

namespace volchain::client {
namespace {

constexpr std::array<const char*, 7> count_options{"keep-last",    "keep-hourly", "keep-daily", "keep-weekly",
                                                   "keep-monthly", "keep-yearly", "max-chain"};

std::uint32_t how_many(const std::string& option, const std::string& text) {
    std::uint32_t number = 0;
    const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (failure != std::errc() || end != text.data() + text.size())
        throw UsageError("--{}: {} is no number", option, quote(text));
    return number;
}

/// What `create` and `set` share.
std::vector<Option> schedule_options() {
    std::vector<Option> all{
        {"keep-last", "N", "keep so many of the newest"},
        {"keep-hourly", "N", "keep the newest of each of the last so many hours that have one"},
        {"keep-daily", "N", "the same of days"},
        {"keep-weekly", "N", "the same of weeks"},
        {"keep-monthly", "N", "the same of months"},
        {"keep-yearly", "N", "the same of years"},
        {"max-chain", "N", "layers that a disk may have before the oldest go; 0: any"},
        {"time-zone", "ZONE", "by which the calendar is meant, as Europe/Berlin"},
        {"jitter", "DURATION", "begin up to so much later"},
        {"when-down", "skip|snapshot", "what to do when the VM is down"},
        {"speed", "SIZE", "a second, at most, where removing snapshots copies"},
        {"profile", "NAME", "take snapshots by this profile of the VM"},
    };
    const std::vector<Option> more = snapshot_options();
    all.insert(all.end(), more.begin(), more.end());
    return all;
}

async::Task<bus::Dict> read_schedule_options(Session& session, Arguments arguments) {
    MethodOptions options(arguments);
    options.text("time-zone").duration("jitter").text("when-down").size("speed");
    for (const char* name : count_options)
        if (const auto value = arguments.value(name)) options.set(name, how_many(name, *value));
    bus::Dict snapshot = co_await read_snapshot_options(session, arguments);
    if (const auto profile = arguments.value("profile")) snapshot.emplace("profile", *profile);
    if (!snapshot.empty()) options.set("snapshot", snapshot);
    co_return options.dict();
}

async::Task<> list_schedules(Session& session, Arguments arguments) {
    bus::ObjectPath vm;
    if (const auto wanted = arguments.word(0)) vm = co_await session.find("vm", *wanted);
    const Objects objects = co_await session.objects();
    std::vector<const Object*> schedules = objects.of_kind("schedule");
    if (!vm.none())
        std::erase_if(schedules, [&vm](const Object* schedule) { return schedule->reference("VM") != vm; });
    const auto key = [&objects](const Object* schedule) {
        return std::tuple(objects.name(schedule->reference("VM")), schedule->text("Name"));
    };
    std::stable_sort(schedules.begin(), schedules.end(),
                     [&key](const Object* a, const Object* b) { return key(a) < key(b); });
    const std::vector<ListColumn> columns{"Name",      "VM",       "Calendar",  "NextUsec",
                                          "Snapshots", "LastUsec", "LastResult"};
    session.output().print(list_of("schedule", objects, schedules, columns));
}

async::Task<> create_schedule(Session& session, Arguments arguments) {
    bus::Dict options = co_await read_schedule_options(session, arguments);
    const bus::ObjectPath vm = co_await session.find("vm", arguments.at(0));
    if (arguments.flag("disabled")) options.emplace("enabled", false);
    const auto schedule = co_await session.call_manager<bus::ObjectPath>("CreateSchedule", arguments.at(1),
                                                                         vm, arguments.at(2), options);
    co_await print_made(session, schedule);
}

async::Task<> change_schedule(Session& session, Arguments arguments) {
    bus::Dict options = co_await read_schedule_options(session, arguments);
    const bus::ObjectPath schedule = co_await session.find("schedule", arguments.at(0));
    for (const char* name : {"name", "calendar"})
        if (const auto value = arguments.value(name)) options.emplace(name, *value);
    if (const auto enabled = arguments.value("enabled")) options.emplace("enabled", *enabled == "yes");
    co_await session.call(schedule, "Update", options);
}

async::Task<> run_schedule(Session& session, Arguments arguments) {
    const bus::ObjectPath schedule = co_await session.find("schedule", arguments.at(0));
    const auto job = co_await session.call<bus::ObjectPath>(schedule, "RunNow");
    co_await finish_job(session, job, "snapshot");
}

async::Task<> delete_schedule(Session& session, Arguments arguments) {
    const bus::ObjectPath schedule = co_await session.find("schedule", arguments.at(0));
    co_await session.call(schedule, "Delete");
}

}  // namespace

std::vector<Verb> schedule_verbs() {
    std::vector<Option> create = schedule_options();
    create.push_back({"disabled", "", "make it, and let it not run by itself yet"});
    std::vector<Option> set = schedule_options();
    set.push_back({"name", "NAME", "its name from now on"});
    set.push_back({"calendar", "CALENDAR", "when it is due from now on"});
    set.push_back({"enabled", "yes|no", "whether it runs by itself"});
    return {
        {"schedule", "list", "[VM]", "list the schedules, or those of a VM", list_schedules},
        {"schedule", "show", "SCHEDULE", "show all there is to say of a schedule", show_object},
        {"schedule", "create", "VM NAME CALENDAR", "take snapshots of a VM by the calendar", create_schedule,
         std::move(create)},
        {"schedule", "set", "SCHEDULE", "change a schedule", change_schedule, std::move(set)},
        {"schedule", "run", "SCHEDULE", "take a snapshot by a schedule now", run_schedule},
        {"schedule", "delete", "SCHEDULE", "forget a schedule; what it made stays", delete_schedule},
    };
}

}  // namespace volchain::client
