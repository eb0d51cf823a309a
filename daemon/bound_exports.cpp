// SPDX-License-Identifier: MIT
#include "daemon/bound_exports.h"

namespace volchain::daemon {

std::string caller_mark(const bus::Connection& bus, const std::string& unique_name) {
    return fmt::format("{}/{}", bus.bus_id(), unique_name);
}

std::string BoundExports::caller_of(const storage::ObjectId& object) const {
    const storage::Catalog& catalog = engine_.catalog();
    return object.kind == storage::ObjectKind::backup ? catalog.backup(object.id).caller
                                                      : catalog.exported(object.id).caller;
}

void BoundExports::follow(const storage::ObjectId& object) {
    if (!engine_.catalog().has(object)) {
        callers_.erase(object.id);
        return;
    }
    const std::string caller = caller_of(object);
    if (!caller.empty() && !callers_.contains(object.id)) watch(object, caller);
}

void BoundExports::end(const storage::ObjectId& object, std::string why) {
    if (object.kind == storage::ObjectKind::backup)
        engine_.backups().abort(object.id, std::move(why));
    else
        engine_.exports().end(object.id, std::move(why));
}

void BoundExports::watch(const storage::ObjectId& object, const std::string& caller) {
    const std::size_t slash = caller.find('/');
    const std::string name = caller.substr(slash + 1);
    const bool other_bus = caller_mark(bus_, name) != caller;
    if (other_bus) return end(object, "the bus that its caller was on is gone");
    callers_.emplace(object.id, bus_.watch_name(name, [this, object](const std::string& owner) {
        if (owner.empty()) end(object, "its caller has left the bus");
    }));
}

}  // namespace volchain::daemon
