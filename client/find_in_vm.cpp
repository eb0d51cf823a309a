// SPDX-License-Identifier: MIT
#include "client/find_in_vm.h"

#include <optional>

namespace volchain::client {
namespace {

std::optional<bus::ObjectPath> named_in_vm(const Objects& objects, const std::string& kind,
                                           const bus::ObjectPath& vm, const std::string& property,
                                           const std::string& name) {
    for (const Object* object : objects.of_kind(kind))
        if (object->reference("VM") == vm && object->text(property) == name) return object->path;
    return std::nullopt;
}

}  // namespace

async::Task<bus::ObjectPath> find_snapshot_of(Session& session, Objects objects, bus::ObjectPath vm,
                                              std::string what) {
    if (const auto found = named_in_vm(objects, "snapshot", vm, "Name", what)) co_return *found;
    co_return co_await session.find("snapshot", what);
}

async::Task<bus::ObjectPath> find_disk_of(Session& session, Objects objects, bus::ObjectPath vm,
                                          std::string what) {
    for (const char* property : {"Name", "Target"})
        if (const auto found = named_in_vm(objects, "disk", vm, property, what)) co_return *found;
    co_return co_await session.find("disk", what);
}

}  // namespace volchain::client
