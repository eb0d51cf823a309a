// SPDX-License-Identifier: MIT
#include "systemd/scope.h"

#include <systemd/sd-daemon.h>

#include <cstdlib>
#include <map>
#include <memory>
#include <tuple>
#include <vector>

#include "async/condition.h"
#include "base/error.h"
#include "systemd/proxy.h"

namespace volchain::systemd {
namespace {

/// The jobs of systemd that have ended, and how: who waits for one begins to listen before it has its name.
struct EndedJobs {
    std::map<std::string, std::string> results;
    async::Condition changed;

    void take(const bus::Message& signal) {
        using Removed = std::tuple<std::uint32_t, bus::ObjectPath, std::string, std::string>;
        const auto [number, job, unit, result] = bus::read_body<Removed>(signal);
        results[job.str()] = result;
        changed.notify();
    }
};

}  // namespace

bool runs_as_service() {
    return sd_booted() > 0 && std::getenv("INVOCATION_ID") != nullptr;
}

async::Task<> move_to_scope(bus::Connection& bus, pid_t process, std::string name, std::string description,
                            async::Deadline deadline) {
    using Property = std::pair<std::string, bus::Variant>;
    using Auxiliary = std::pair<std::string, std::vector<Property>>;
    const bus::Proxy manager(bus, "org.freedesktop.systemd1", "/org/freedesktop/systemd1",
                             "org.freedesktop.systemd1.Manager");
    const auto jobs = std::make_shared<EndedJobs>();
    const auto subscription =
        manager.subscribe("JobRemoved", [jobs](const bus::Message& signal) { jobs->take(signal); });
    const std::vector<std::uint32_t> processes{static_cast<std::uint32_t>(process)};
    std::vector<Property> properties;
    properties.emplace_back("Description", description);
    properties.emplace_back("PIDs", processes);
    properties.emplace_back("CollectMode", "inactive-or-failed");
    const std::vector<Auxiliary> none;
    const std::string unit = name + ".scope";
    auto call = manager.call<bus::ObjectPath>("StartTransientUnit", deadline, unit, std::string("fail"),
                                              properties, none);
    const bus::ObjectPath job = co_await std::move(call);
    while (!jobs->results.contains(job.str()))
        co_await jobs->changed.wait(deadline, "systemd to make the unit " + unit);
    if (jobs->results.at(job.str()) != "done")
        throw Error(ErrorCode::internal, "systemd did not make the unit {}: {}", unit,
                    jobs->results.at(job.str()));
}

}  // namespace volchain::systemd
