// SPDX-License-Identifier: MIT
//
// What a verb does with the job that a method has given it: waits for its end, shows how it goes, prints the
// result; or, with --no-wait, prints its id. The wait is Job.Wait, without a time-out; progress comes as
// PropertiesChanged. ^C ends the wait, not the job.
#pragma once

#include <string>

#include "client/session.h"
#include "client/stop_sign.h"

namespace volchain::client {

/// `made`: the entry of the result that -q prints the id of ("snapshot"); empty for none. Throws what the job
/// failed with; Interrupted at ^C.
async::Task<> finish_job(Session& session, bus::ObjectPath job, std::string made = "");

/// The same, whatever --no-wait says, and of the result nothing with -q.
async::Task<> wait_for_job(Session& session, bus::ObjectPath job, std::string made = "");

/// The same, and its result, of which nothing is printed.
[[nodiscard]] async::Task<bus::Dict> result_of_job(Session& session, bus::ObjectPath job);
/// For a command that undoes what it has begun: it waits until the job's end, or until the user wants the command to end; then
/// it throws Interrupted and says nothing. Without a sign to look at, it waits in any case.
[[nodiscard]] async::Task<bus::Dict> result_of_part(Session& session, bus::ObjectPath job, StopSign* stop);

/// "disk: data (64c0...)" or its id with -q: what a method that is no job has made.
async::Task<> print_made(Session& session, bus::ObjectPath object);

}  // namespace volchain::client
