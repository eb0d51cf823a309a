// SPDX-License-Identifier: MIT
#include "systemd/transient_unit.h"

#include <fcntl.h>
#include <systemd/sd-daemon.h>

#include <cerrno>
#include <cstdlib>
#include <map>
#include <memory>
#include <tuple>

#include "async/condition.h"
#include "base/error.h"
#include "systemd/bus_error.h"
#include "systemd/proxy.h"

namespace volchain::systemd {
namespace {

using Property = TransientService::Property;

bus::Proxy manager_of(bus::Connection& bus) {
    return {bus, "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"};
}

/// The jobs of systemd that have ended, and how: who waits for one begins to listen before it has its name.
class EndedJobs {
  public:
    explicit EndedJobs(bus::Connection& bus) : state_(std::make_shared<State>()) {
        subscription_ = manager_of(bus).subscribe(
            "JobRemoved", [state = state_](const bus::Message& signal) { state->take(signal); });
    }

    async::Task<> wait(bus::ObjectPath job, std::string what, async::Deadline deadline) {
        const std::string& path = job.str();
        while (!state_->results.contains(path)) co_await state_->changed.wait(deadline, "systemd to " + what);
        const std::string result = state_->results.at(path);
        if (result != "done")
            throw Error(ErrorCode::internal, "systemd did not {}: {}; see its journal", what, result);
    }

  private:
    struct State {
        std::map<std::string, std::string> results;
        async::Condition changed;

        void take(const bus::Message& signal) {
            using Removed = std::tuple<std::uint32_t, bus::ObjectPath, std::string, std::string>;
            const auto [number, job, unit, result] = bus::read_body<Removed>(signal);
            results[job.str()] = result;
            changed.notify();
        }
    };

    std::shared_ptr<State> state_;
    bus::Subscription subscription_;
};

async::Task<> start_unit(bus::Connection& bus, std::string unit, std::vector<Property> properties,
                         async::Deadline deadline) {
    using Auxiliary = std::pair<std::string, std::vector<Property>>;
    EndedJobs jobs(bus);
    const std::vector<Auxiliary> none;
    auto call = manager_of(bus).call<bus::ObjectPath>("StartTransientUnit", deadline, unit,
                                                      std::string("fail"), properties, none);
    bus::ObjectPath job = co_await std::move(call);
    co_await jobs.wait(std::move(job), "make the unit " + unit, deadline);
}

/// a(sasb): the program, its arguments, whether its failure is ignored.
bus::Variant command_property(const std::vector<std::string>& argv, bool may_fail) {
    using Command = std::tuple<std::string, std::vector<std::string>, bool>;
    const std::vector<Command> commands{Command(argv.at(0), argv, may_fail)};
    return {commands};
}

}  // namespace

bool runs_as_service() {
    return sd_booted() > 0 && std::getenv("INVOCATION_ID") != nullptr;
}

async::Task<> move_to_scope(bus::Connection& bus, pid_t process, std::string name, std::string description,
                            async::Deadline deadline) {
    const std::vector<std::uint32_t> processes{static_cast<std::uint32_t>(process)};
    std::vector<Property> properties;
    properties.emplace_back("Description", description);
    properties.emplace_back("PIDs", processes);
    properties.emplace_back("CollectMode", "inactive-or-failed");
    co_await start_unit(bus, name + ".scope", std::move(properties), deadline);
}

TransientService::TransientService(std::string name, std::string description,
                                   const std::vector<std::string>& argv)
    : name_(std::move(name)) {
    set("Description", description);
    set("CollectMode", "inactive-or-failed");
    set("ExecStart", command_property(argv, false));
}

TransientService& TransientService::set(std::string property, bus::Variant value) {
    properties_.emplace_back(std::move(property), std::move(value));
    return *this;
}

TransientService& TransientService::hand(const std::string& stream, int descriptor) {
    UniqueFd copy(::fcntl(descriptor, F_DUPFD_CLOEXEC, 3));
    if (!copy) throw system_error(errno, "cannot hand over a descriptor");
    return set(stream + "FileDescriptor", bus::UnixFd(std::move(copy)));
}

TransientService& TransientService::afterwards(const std::vector<std::string>& argv) {
    return set("ExecStopPost", command_property(argv, true));
}

async::Task<> start_service(bus::Connection& bus, TransientService service, async::Deadline deadline) {
    co_await start_unit(bus, service.unit(), service.properties(), deadline);
}

async::Task<> stop_unit(bus::Connection& bus, std::string unit, async::Deadline deadline) {
    EndedJobs jobs(bus);
    bus::ObjectPath job;
    try {
        auto call = manager_of(bus).call<bus::ObjectPath>("StopUnit", deadline, unit, std::string("replace"));
        job = co_await std::move(call);
    } catch (const bus::RemoteError& error) {
        if (error.error_name() != "org.freedesktop.systemd1.NoSuchUnit") throw;
    }
    if (job.none()) co_return;
    co_await jobs.wait(std::move(job), "stop the unit " + unit, deadline);
}

}  // namespace volchain::systemd
