// SPDX-License-Identifier: MIT
#include "client/objects.h"

#include <algorithm>

#include "systemd/wire_types.h"

namespace volchain::client {
namespace {

constexpr std::string_view interface_prefix = "org.volchain1.";

}  // namespace

std::string kind_of(const bus::ObjectPath& path) {
    const std::string prefix = std::string(root_path) + "/";
    if (!path.str().starts_with(prefix)) return {};
    const std::size_t end = path.str().find('/', prefix.size());
    return end == std::string::npos ? std::string() : path.str().substr(prefix.size(), end - prefix.size());
}

std::string id_of(const bus::ObjectPath& path) {
    const std::string kind = kind_of(path);
    const auto id = bus::object_id(std::string(root_path) + "/" + kind, path.str());
    return kind.empty() || !id ? std::string() : id->str();
}

std::string interface_of(std::string_view kind) {
    std::string name(kind);
    if (name == "vm")
        name = "VM";
    else if (!name.empty())
        name.front() = static_cast<char>(name.front() - 'a' + 'A');
    return std::string(interface_prefix) + name;
}

// --- one object ----------------------------------------------------------------------------------

std::string Object::text(const std::string& property) const {
    return value<std::string>(property);
}
std::uint64_t Object::number(const std::string& property) const {
    return value<std::uint64_t>(property);
}
bool Object::flag(const std::string& property) const {
    return value<bool>(property);
}
bus::ObjectPath Object::reference(const std::string& property) const {
    return value<bus::ObjectPath>(property);
}
std::vector<bus::ObjectPath> Object::references(const std::string& property) const {
    return value<std::vector<bus::ObjectPath>>(property);
}

std::string Object::name() const {
    return text(kind == "volume" ? "Path" : "Name");
}

// --- all -----------------------------------------------------------------------------------------

Objects::Objects(const Managed& managed) {
    for (const auto& [path, interfaces] : managed) add(path, interfaces);
}

void Objects::add(const bus::ObjectPath& path, const std::map<std::string, bus::Dict>& interfaces) {
    Object object;
    object.path = path;
    object.kind = kind_of(path);
    const auto own = interfaces.find(interface_of(object.kind));
    if (object.kind.empty() || own == interfaces.end()) return;
    object.properties = own->second;
    objects_.insert_or_assign(path, std::move(object));
}

void Objects::change(const bus::ObjectPath& path, const bus::Dict& properties) {
    const auto found = objects_.find(path);
    if (found == objects_.end()) return;
    for (const auto& [name, value] : properties) found->second.properties.insert_or_assign(name, value);
}

const Object* Objects::find(const bus::ObjectPath& path) const {
    const auto found = objects_.find(path);
    return found == objects_.end() ? nullptr : &found->second;
}

std::vector<const Object*> Objects::of_kind(std::string_view kind) const {
    std::vector<const Object*> all;
    for (const auto& [path, object] : objects_)
        if (object.kind == kind) all.push_back(&object);
    std::stable_sort(all.begin(), all.end(),
                     [](const Object* a, const Object* b) { return a->name() < b->name(); });
    return all;
}

std::string Objects::name(const bus::ObjectPath& path) const {
    const Object* object = find(path);
    return object == nullptr ? std::string() : object->name();
}

}  // namespace volchain::client
