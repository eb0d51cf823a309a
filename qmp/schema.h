// SPDX-License-Identifier: MIT
//
// Schema: what a QEMU can do, as it says itself (query-qmp-schema, docs/devel/qapi-code-gen "Client JSON
// Protocol introspection"). Questions are asked of this, never of a version number. Session::schema() reads
// and keeps it.
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/json.h"

namespace volchain::qmp {

class Schema {
  public:
    /// Reads an answer of query-qmp-schema; throws QemuFailed where it is not one.
    explicit Schema(const Json& answer);

    [[nodiscard]] bool has_command(std::string_view name) const;
    [[nodiscard]] bool has_event(std::string_view name) const;

    /// Whether a command has an argument. The path goes from the command through members, and at a union
    /// through the name of a variant: {"blockdev-add", "qcow2", "discard-no-unref"}, {"block-export-add",
    /// "nbd", "bitmaps", "node"}. Alternatives and lists on the way are seen through.
    [[nodiscard]] bool command_has_argument(const std::vector<std::string>& path) const;
    /// The same for what a command returns: {"query-named-block-nodes", "children"}.
    [[nodiscard]] bool command_returns(const std::vector<std::string>& path) const;
    /// Whether the argument at that path is an enumeration with that value: ({"blockdev-add", "file", "aio"},
    /// "io_uring").
    [[nodiscard]] bool enum_has_value(const std::vector<std::string>& path, std::string_view value) const;

  private:
    enum class Kind { builtin, enumeration, array, object, alternate, command, event };
    struct Entity {
        Kind kind = Kind::builtin;
        /// Members of an object and variants of a union, by name; an array's elements and an alternate's
        /// choices have no name; the values of an enumeration no type; a command has "arguments" and
        /// "result".
        std::vector<std::pair<std::string, std::string>> parts;
    };
    using Types = std::set<const Entity*>;

    [[nodiscard]] static Entity parse_entity(const JsonReader& info, const std::string& meta_type);
    void add_seen_through(Types& types, const std::string& name) const;
    [[nodiscard]] Types walk(const std::vector<std::string>& path, std::string_view from) const;

    /// A command or an event may have the name of a type: one map for each of them.
    std::unordered_map<std::string, Entity> types_;
    std::unordered_map<std::string, Entity> commands_;
    std::unordered_map<std::string, Entity> events_;
};

}  // namespace volchain::qmp
