// SPDX-License-Identifier: MIT
//
// From D-Bus to cells: what a property is (a size, a time, an object ...) follows from its type and the end
// of its name, so that a new property of the daemon is shown rightly without a line here. Lists and sheets of
// objects are made from names of properties.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "client/objects.h"
#include "client/table.h"

namespace volchain::client {

/// What an object is called, for references to it.
using NameOf = std::function<std::string(const bus::ObjectPath&)>;

/// "...Bytes" is a size, "...Usec" a time; in results and options, whose names are of another form,
/// "...-usec" is a duration.
[[nodiscard]] Cell cell_of(const std::string& property, const bus::Variant& value, const NameOf& name_of);

/// A column of a list: a property, or something that is computed.
struct ListColumn {
    ListColumn(const char* property) : name(property) {}  // NOLINT(google-explicit-constructor)
    ListColumn(const char* column, std::function<Cell(const Object&)> value)
        : name(column), compute(std::move(value)) {}

    std::string name;
    std::function<Cell(const Object&)> compute;
};

/// The columns, and in JSON all other properties, too. `noun`: for the footer.
[[nodiscard]] Table list_of(const std::string& noun, const Objects& objects,
                            const std::vector<const Object*>& rows, const std::vector<ListColumn>& columns);
/// All properties of one object, what it is and how it does first.
[[nodiscard]] Sheet sheet_of(const bus::Dict& properties, const NameOf& name_of);

[[nodiscard]] NameOf names_in(const Objects& objects);

}  // namespace volchain::client
