// SPDX-License-Identifier: MIT
//
// Verbs without a noun: the daemon as a whole, and what the shells ask for.
#include <algorithm>
#include <chrono>

#include "client/complete.h"
#include "client/monitor.h"
#include "client/properties.h"
#include "client/verb.h"

namespace volchain::client {
namespace {

/// A shell that waits for completions must not hang.
constexpr std::chrono::seconds completion_limit{2};

/// "PoolCount" ... and what is going on.
void add_counts(Sheet& sheet, const Objects& objects) {
    for (const Noun& noun : nouns()) {
        const std::string interface = interface_of(noun.name);
        sheet.add(interface.substr(interface.rfind('.') + 1) + "Count",
                  Cell::number(objects.of_kind(noun.name).size()));
    }
    const auto vms = objects.of_kind("vm");
    const auto jobs = objects.of_kind("job");
    const auto running = [](const Object* vm) { return vm->text("State") == "running"; };
    const auto under_way = [](const Object* job) { return job->number("FinishedUsec") == 0; };
    sheet.add("RunningVms",
              Cell::number(static_cast<std::uint64_t>(std::count_if(vms.begin(), vms.end(), running))));
    sheet.add("RunningJobs",
              Cell::number(static_cast<std::uint64_t>(std::count_if(jobs.begin(), jobs.end(), under_way))));
}

async::Task<> status(Session& session, Arguments) {
    const bus::Dict properties = co_await session.manager().properties(session.soon());
    const Objects objects = co_await session.objects();
    Sheet sheet = sheet_of(properties, names_in(objects));
    add_counts(sheet, objects);
    session.output().print(sheet);
}

/// Names of the objects that may stand at the cursor; none where the daemon cannot be asked.
async::Task<std::vector<NameAndId>> names_of(Session& session, std::string kind) {
    std::vector<NameAndId> names;
    Objects objects;
    std::exception_ptr failure;
    co_await async::keep_result(session.objects(async::after(completion_limit)), objects, failure);
    for (const Object* object : objects.of_kind(kind)) names.push_back({object->name(), object->text("Id")});
    co_return names;
}

async::Task<> complete_line(Session& session, Arguments arguments) {
    Completion completion = complete(arguments.words_from(0));
    if (!completion.object_kind.empty()) {
        const auto names = co_await names_of(session, completion.object_kind);
        completion.candidates = matching(completion, names);
    }
    for (const std::string& candidate : completion.candidates) session.output().print_line(candidate);
    if (completion.files) session.output().print_line(":files");
}

}  // namespace

std::vector<Verb> host_verbs() {
    return {
        {"", "status", "", "say how the daemon is", status},
        {"", "monitor", "", "print what comes, goes and changes, until ^C", monitor},
        {"", "complete", "[WORD...]", "complete a command line, for shells", complete_line, {}, true},
    };
}

}  // namespace volchain::client
