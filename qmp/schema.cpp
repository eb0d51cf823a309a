// SPDX-License-Identifier: MIT
#include "qmp/schema.h"

#include <algorithm>

namespace volchain::qmp {
namespace {

constexpr const char* arguments = "arguments";
constexpr const char* result = "result";

}  // namespace

Schema::Schema(const Json& answer) {
    const JsonReader document(answer, "answer of query-qmp-schema", ErrorCode::qemu_failed);
    for (const JsonReader& info : document.elements()) {
        const std::string& meta_type = info.at("meta-type").string();
        auto& entities = meta_type == "command" ? commands_ : meta_type == "event" ? events_ : types_;
        entities.insert_or_assign(info.at("name").string(), parse_entity(info, meta_type));
    }
}

Schema::Entity Schema::parse_entity(const JsonReader& info, const std::string& meta_type) {
    Entity entity;
    const auto add = [&](std::string_view list, std::string_view name, std::string_view type) {
        const auto found = info.find(list);
        if (!found) return;
        for (const JsonReader& part : found->elements())
            entity.parts.emplace_back(name.empty() ? "" : part.at(name).string(),
                                      type.empty() ? "" : part.at(type).string());
    };
    if (meta_type == "object") {
        entity.kind = Kind::object;
        add("members", "name", "type");
        add("variants", "case", "type");
    } else if (meta_type == "alternate") {
        entity.kind = Kind::alternate;
        add("members", "", "type");
    } else if (meta_type == "array") {
        entity.kind = Kind::array;
        entity.parts.emplace_back("", info.at("element-type").string());
    } else if (meta_type == "enum") {
        entity.kind = Kind::enumeration;
        // "values" is deprecated, "members" came with QEMU 6.2.
        if (info.find("members"))
            add("members", "name", "");
        else
            for (const JsonReader& value : info.at("values").elements())
                entity.parts.emplace_back(value.string(), "");
    } else if (meta_type == "command") {
        entity.kind = Kind::command;
        entity.parts.emplace_back(arguments, info.at("arg-type").string());
        entity.parts.emplace_back(result, info.at("ret-type").string());
    } else if (meta_type == "event") {
        entity.kind = Kind::event;
    }
    return entity;  // "builtin", and kinds of the future, have no parts
}

bool Schema::has_command(std::string_view name) const {
    return commands_.contains(std::string(name));
}
bool Schema::has_event(std::string_view name) const {
    return events_.contains(std::string(name));
}

/// Adds the type of that name; instead of a list or an alternative, what it consists of.
void Schema::add_seen_through(Types& types, const std::string& name) const {
    std::vector<std::string> open{name};
    std::set<std::string> seen;
    while (!open.empty()) {
        const std::string next = std::move(open.back());
        open.pop_back();
        const auto found = types_.find(next);
        if (found == types_.end() || !seen.insert(next).second) continue;
        const Entity& entity = found->second;
        if (entity.kind != Kind::array && entity.kind != Kind::alternate) {
            types.insert(&entity);
            continue;
        }
        for (const auto& [part, type] : entity.parts) open.push_back(type);
    }
}

/// The types at the end of the path, none where it does not exist. `from`: the part of the command to begin
/// with.
Schema::Types Schema::walk(const std::vector<std::string>& path, std::string_view from) const {
    Types types;
    const auto command = path.empty() ? commands_.end() : commands_.find(path.front());
    if (command == commands_.end()) return types;
    for (const auto& [part, type] : command->second.parts)
        if (part == from) add_seen_through(types, type);
    for (std::size_t i = 1; i < path.size(); ++i) {
        Types next;
        for (const Entity* entity : types) {
            if (entity->kind != Kind::object) continue;
            for (const auto& [part, type] : entity->parts)
                if (part == path[i]) add_seen_through(next, type);
        }
        types = std::move(next);
    }
    return types;
}

bool Schema::command_has_argument(const std::vector<std::string>& path) const {
    return !walk(path, arguments).empty();
}

bool Schema::command_returns(const std::vector<std::string>& path) const {
    return !walk(path, result).empty();
}

bool Schema::enum_has_value(const std::vector<std::string>& path, std::string_view value) const {
    const Types types = walk(path, arguments);
    return std::any_of(types.begin(), types.end(), [value](const Entity* entity) {
        return entity->kind == Kind::enumeration &&
               std::any_of(entity->parts.begin(), entity->parts.end(),
                           [value](const auto& part) { return part.first == value; });
    });
}

}  // namespace volchain::qmp
