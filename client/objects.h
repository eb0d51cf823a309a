// SPDX-License-Identifier: MIT
//
// Objects: all that the daemon shows at one moment (one GetManagedObjects), by which lists, sheets and trees
// are drawn. Values of their own; nothing in them changes when the daemon's do. A property that is missing or
// of another type, because the daemon is of another version, is empty.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "client/cell.h"
#include "systemd/variant.h"

namespace volchain::client {

inline constexpr const char* service_name = "org.volchain1";
inline constexpr const char* root_path = "/org/volchain1";
inline constexpr const char* manager_interface = "org.volchain1.Manager";

/// "vm" of "/org/volchain1/vm/...", empty for another path.
[[nodiscard]] std::string kind_of(const bus::ObjectPath& path);
/// The UUID in such a path, empty for another.
[[nodiscard]] std::string id_of(const bus::ObjectPath& path);
/// "org.volchain1.VM" of "vm".
[[nodiscard]] std::string interface_of(std::string_view kind);

/// One object and its properties.
struct Object {
    bus::ObjectPath path;
    std::string kind;
    bus::Dict properties;

    [[nodiscard]] std::string text(const std::string& property) const;
    [[nodiscard]] std::uint64_t number(const std::string& property) const;
    [[nodiscard]] bool flag(const std::string& property) const;
    [[nodiscard]] bus::ObjectPath reference(const std::string& property) const;
    [[nodiscard]] std::vector<bus::ObjectPath> references(const std::string& property) const;

    /// What people call it: its name, of a volume its path; empty where it has none (jobs).
    [[nodiscard]] std::string name() const;

    template <typename T>
    [[nodiscard]] T value(const std::string& property) const {
        const auto found = properties.find(property);
        if (found == properties.end()) return T();
        return found->second.get<T>().value_or(T());
    }
};

class Objects {
  public:
    /// As GetManagedObjects answers.
    using Managed = std::map<bus::ObjectPath, std::map<std::string, bus::Dict>>;

    Objects() = default;
    explicit Objects(const Managed& managed);

    /// Null where there is none.
    [[nodiscard]] const Object* find(const bus::ObjectPath& path) const;
    /// By name.
    [[nodiscard]] std::vector<const Object*> of_kind(std::string_view kind) const;
    /// Empty where it has none or is gone.
    [[nodiscard]] std::string name(const bus::ObjectPath& path) const;

    // --- for monitor ---
    void add(const bus::ObjectPath& path, const std::map<std::string, bus::Dict>& interfaces);
    void remove(const bus::ObjectPath& path) { objects_.erase(path); }
    void change(const bus::ObjectPath& path, const bus::Dict& properties);

  private:
    std::map<bus::ObjectPath, Object> objects_;
};

}  // namespace volchain::client
