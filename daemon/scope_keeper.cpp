// SPDX-License-Identifier: MIT
#include "daemon/scope_keeper.h"

#include "systemd/scope.h"

namespace volchain::daemon {
namespace {

constexpr auto unit_limit = std::chrono::seconds(25);

}  // namespace

async::Task<> ScopeKeeper::keep(pid_t process, std::string name, std::string what) {
    return systemd::move_to_scope(bus_, process, std::move(name), std::move(what), async::after(unit_limit));
}

}  // namespace volchain::daemon
