// SPDX-License-Identifier: MIT
#include "client/properties.h"

#include <algorithm>
#include <array>
#include <set>
#include <type_traits>
#include <variant>

namespace volchain::client {
namespace {

using Container = bus::Variant::Container;

/// Names for the fields of the structs in a property, which D-Bus does not name; chosen so that they say the
/// type.
const std::vector<std::string>& field_names(const std::string& property) {
    static const std::map<std::string, std::vector<std::string>> all{
        {"Bitmaps", {"Name", "GranularityBytes", "Flags"}},
        {"Disks", {"Disk", "Volume"}},
        {"Error", {"Name", "Message"}},
        {"Excluded", {"Disk", "Why"}},
        {"Unmanaged", {"Device", "Why"}},
    };
    static const std::vector<std::string> none;
    const auto found = all.find(property);
    return found == all.end() ? none : found->second;
}

Cell cell_of_number(const std::string& name, std::uint64_t number) {
    if (name.ends_with("Bytes") || name.ends_with("-bytes") || name == "bytes") return Cell::size(number);
    if (name.ends_with("-usec") || name == "JitterUsec") return Cell::duration(number);
    return name.ends_with("Usec") ? Cell::time(number) : Cell::number(number);
}

Cell cell_of_text(const std::string& name, const std::string& text) {
    if (name == "Id") return Cell::id(text);
    return name.ends_with("State") || name.ends_with("Status") ? Cell::state(text) : Cell::text(text);
}

Cell cell_of_path(const bus::ObjectPath& path, const NameOf& name_of) {
    if (path.none()) return {};
    const std::string id = id_of(path);
    return id.empty() ? Cell::text(path.str()) : Cell::object(kind_of(path), id, name_of(path));
}

Cell cell_of_container(const std::string& name, const Container& container, const NameOf& name_of);

struct ToCell {
    const std::string& name;
    const NameOf& name_of;

    template <typename T>
    Cell operator()(const T& value) const {
        if constexpr (std::is_same_v<T, bool>)
            return Cell::boolean(value);
        else if constexpr (std::is_floating_point_v<T>)
            return Cell::percent(value * 100);
        else if constexpr (std::is_integral_v<T>)
            return cell_of_number(name, static_cast<std::uint64_t>(value));
        else if constexpr (std::is_same_v<T, std::string>)
            return cell_of_text(name, value);
        else if constexpr (std::is_same_v<T, bus::ObjectPath>)
            return cell_of_path(value, name_of);
        else if constexpr (std::is_same_v<T, Container>)
            return cell_of_container(name, value, name_of);
        else if constexpr (std::is_same_v<T, bus::Variant::Bytes>)
            return Cell::size(value.size());
        else
            return {};  // signatures and descriptors are no properties
    }
};

Cell cell_of_struct(const std::string& name, const Container& container, const NameOf& name_of) {
    const std::vector<std::string>& names = field_names(name);
    std::vector<std::pair<std::string, Cell>> fields;
    for (std::size_t i = 0; i < container.items.size(); ++i) {
        const std::string field = i < names.size() ? names[i] : "Field" + std::to_string(i);
        fields.emplace_back(key_of(field), cell_of(field, container.items[i], name_of));
    }
    return Cell::record(std::move(fields));
}

Cell cell_of_dictionary(const Container& container, const NameOf& name_of) {
    std::vector<std::pair<std::string, Cell>> fields;
    for (const bus::Variant& item : container.items) {
        const auto& entry = std::get<Container>(item.content());
        const auto key = entry.items.at(0).get<std::string>();
        if (key) fields.emplace_back(key_of(*key), cell_of(*key, entry.items.at(1), name_of));
    }
    return Cell::record(std::move(fields));
}

/// The daemon lists objects in no order.
void sort_by_name(std::vector<bus::Variant>& paths, const NameOf& name_of) {
    std::vector<std::pair<std::string, bus::Variant>> named;
    for (bus::Variant& path : paths)
        named.emplace_back(name_of(path.get<bus::ObjectPath>().value_or(bus::ObjectPath())), std::move(path));
    std::stable_sort(named.begin(), named.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
    paths.clear();
    for (auto& [name, path] : named) paths.push_back(std::move(path));
}

Cell cell_of_container(const std::string& name, const Container& container, const NameOf& name_of) {
    if (container.kind == 'v') return cell_of(name, container.items.at(0), name_of);
    if (container.kind == 'r') return cell_of_struct(name, container, name_of);
    if (container.contents.starts_with('{')) return cell_of_dictionary(container, name_of);
    std::vector<bus::Variant> values = container.items;
    if (container.contents == "o") sort_by_name(values, name_of);
    std::vector<Cell> items;
    for (const bus::Variant& item : values) items.push_back(cell_of(name, item, name_of));
    return Cell::list(std::move(items));
}

/// Those that people look for, in this order; the others follow by name.
constexpr std::array<const char*, 20> first_properties{
    "Version",    "Name",        "Description", "Id",   "Kind",       "VM",      "Disk",
    "Subject",    "State",       "Status",      "Step", "Error",      "VMState", "Consistency",
    "AgentState", "CreatedUsec", "StartedUsec", "Path", "ActivePath", "Format"};

std::vector<std::string> in_order(const bus::Dict& properties) {
    std::vector<std::string> order;
    for (const char* name : first_properties)
        if (properties.contains(name)) order.emplace_back(name);
    for (const auto& [name, value] : properties)
        if (std::find(order.begin(), order.end(), name) == order.end()) order.push_back(name);
    return order;
}

}  // namespace

Cell cell_of(const std::string& property, const bus::Variant& value, const NameOf& name_of) {
    // An Error that says nothing is none.
    using TextPair = std::tuple<std::string, std::string>;
    if (property == "Error" && value.get<TextPair>() == TextPair()) return {};
    return std::visit(ToCell{property, name_of}, value.content());
}

NameOf names_in(const Objects& objects) {
    return [&objects](const bus::ObjectPath& path) { return objects.name(path); };
}

Table list_of(const std::string& noun, const Objects& objects, const std::vector<const Object*>& rows,
              const std::vector<ListColumn>& columns) {
    std::set<std::string> others;
    for (const Object* row : rows)
        for (const auto& [property, value] : row->properties) others.insert(property);
    std::vector<Table::Column> all;
    for (const ListColumn& column : columns) {
        all.push_back({column.name, true});
        others.erase(column.name);
    }
    for (const std::string& property : others) all.push_back({property, false});
    Table table(noun, all);
    const NameOf name_of = names_in(objects);
    for (const Object* row : rows) {
        std::vector<Cell> cells;
        for (std::size_t i = 0; i < all.size(); ++i) {
            const auto found = row->properties.find(all[i].property);
            if (i < columns.size() && columns[i].compute)
                cells.push_back(columns[i].compute(*row));
            else
                cells.push_back(
                    found == row->properties.end() ? Cell() : cell_of(found->first, found->second, name_of));
        }
        table.add(std::move(cells));
    }
    return table;
}

Sheet sheet_of(const bus::Dict& properties, const NameOf& name_of) {
    Sheet sheet;
    for (const std::string& name : in_order(properties))
        sheet.add(name, cell_of(name, properties.at(name), name_of));
    return sheet;
}

}  // namespace volchain::client
