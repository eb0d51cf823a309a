// SPDX-License-Identifier: MIT
#include "daemon/bound_exports.h"

namespace volchain::daemon {

std::string caller_mark(const bus::Connection& bus, const std::string& unique_name) {
    return fmt::format("{}/{}", bus.bus_id(), unique_name);
}

void BoundExports::follow(const Uuid& id) {
    const auto& all = engine_.catalog().exports();
    const auto found = all.find(id);
    if (found == all.end()) {
        callers_.erase(id);
        return;
    }
    if (!found->second.caller.empty() && !callers_.contains(id)) watch(id, found->second.caller);
}

void BoundExports::watch(const Uuid& id, const std::string& caller) {
    const std::size_t slash = caller.find('/');
    const std::string name = caller.substr(slash + 1);
    const bool other_bus = caller_mark(bus_, name) != caller;
    if (other_bus) return engine_.exports().end(id, "the bus that its caller was on is gone");
    callers_.emplace(id, bus_.watch_name(name, [this, id](const std::string& owner) {
        if (owner.empty()) engine_.exports().end(id, "its caller has left the bus");
    }));
}

}  // namespace volchain::daemon
