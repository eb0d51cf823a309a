// SPDX-License-Identifier: MIT
//
// Transient units of systemd: processes that go on when the service that we are is stopped or restarted, and processes that
// may do what our unit does not let us do (org.freedesktop.systemd1(5), systemd.scope(5), systemd.service(5)). They go when
// their processes have ended. It does not know what they are for.
#pragma once

#include <sys/types.h>

#include <string>
#include <utility>
#include <vector>

#include "async/task.h"
#include "systemd/bus_connection.h"
#include "systemd/variant.h"

namespace volchain::systemd {

/// Whether systemd runs this process as a service, and so ends all that it started together with it.
[[nodiscard]] bool runs_as_service();

/// Returns when the process, which we have started, is in the new unit `name`.scope. Throws what systemd says against it.
async::Task<> move_to_scope(bus::Connection& bus, pid_t process, std::string name, std::string description,
                            async::Deadline deadline);

/// A process that systemd starts in our place, with nothing of what confines us. A class with a constructor, so that it may
/// be handed to coroutines.
class TransientService {
  public:
    using Property = std::pair<std::string, bus::Variant>;

    /// The unit is `name`.service. argv[0] is an absolute path.
    TransientService(std::string name, std::string description, const std::vector<std::string>& argv);

    /// A property of the unit, as D-Bus knows it.
    TransientService& set(std::string property, bus::Variant value);
    /// A descriptor for its standard input or output: "StandardInput", "StandardOutput". It is duplicated.
    TransientService& hand(const std::string& stream, int descriptor);
    /// A command that is run when the process has ended, however it has.
    TransientService& afterwards(const std::vector<std::string>& argv);

    [[nodiscard]] std::string unit() const { return name_ + ".service"; }
    [[nodiscard]] const std::vector<Property>& properties() const noexcept { return properties_; }

  private:
    std::string name_;
    std::vector<Property> properties_;
};

/// Returns when the program runs; of "Type" "oneshot", when it has ended.
async::Task<> start_service(bus::Connection& bus, TransientService service, async::Deadline deadline);

/// Ends a unit, and all that is to be done afterwards; nothing happens where there is none.
async::Task<> stop_unit(bus::Connection& bus, std::string unit, async::Deadline deadline);

}  // namespace volchain::systemd
