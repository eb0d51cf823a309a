// SPDX-License-Identifier: MIT
#include "client/snapshot_options.h"

#include "client/usage_error.h"

namespace volchain::client {

std::vector<Option> snapshot_options() {
    return {
        {"description", "TEXT", "for people"},
        {"disk", "DISK...", "only this disk, and others given likewise"},
        {"exclude", "DISK...", "all disks but this one, and others given likewise"},
        {"quiesce", "auto|require|off",
         "freeze the guest's file systems: if it can be, or fail, or not at all"},
        {"freeze-timeout", "DURATION", "how long the freeze may take"},
        {"on-disk-failure", "abort|exclude", "what a disk that cannot take part does to the snapshot"},
        {"memory", "", "keep what the running VM has in its memory, too: it goes on from there"},
        {"no-memory", "", "do not, whatever a profile says"},
    };
}

MethodOptions& set_memory_option(MethodOptions& options, const Arguments& arguments) {
    if (arguments.flag("memory") && arguments.flag("no-memory"))
        throw UsageError("--memory and --no-memory contradict each other");
    if (arguments.flag("memory")) options.set("memory", true);
    if (arguments.flag("no-memory")) options.set("memory", false);
    return options;
}

async::Task<bus::Dict> read_snapshot_options(Session& session, Arguments arguments) {
    MethodOptions options(arguments);
    options.text("description").text("quiesce").duration("freeze-timeout").text("on-disk-failure");
    set_memory_option(options, arguments);
    const auto disks = co_await session.find_all("disk", arguments.values("disk"));
    const auto exclude = co_await session.find_all("disk", arguments.values("exclude"));
    options.objects("disks", disks).objects("exclude", exclude);
    co_return options.dict();
}

}  // namespace volchain::client
