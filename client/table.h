// SPDX-License-Identifier: MIT
//
// Table: rows of typed cells under named columns, and Sheet: one object with a line for each property. Both
// give text for people and JSON for programs; there is no other printer in the client.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "client/cell.h"

namespace volchain::client {

/// The words of a property or result name: "VMState" and "vm-state" are VM, state; a unit at the end
/// ("Bytes", "Usec") is no word for people.
[[nodiscard]] std::string key_of(std::string_view property);     ///< "capacity_bytes": in JSON
[[nodiscard]] std::string label_of(std::string_view property);   ///< "Capacity": in a sheet
[[nodiscard]] std::string header_of(std::string_view property);  ///< "CAPACITY": above a column

class Table {
  public:
    struct Column {
        std::string property;  ///< as on D-Bus, see key_of()
        bool shown = true;     ///< to people; JSON has them all
    };

    /// `noun`: what a row is, for the footer.
    Table(std::string noun, std::vector<Column> columns)
        : noun_(std::move(noun)), columns_(std::move(columns)) {}

    /// As many cells as there are columns. `art` stands before the first one: the lines of a tree.
    void add(std::vector<Cell> cells, std::string art = "");

    [[nodiscard]] std::string text(const TextStyle& style) const;
    [[nodiscard]] OrderedJson json() const;

  private:
    struct Row {
        std::string art;
        std::vector<Cell> cells;
    };
    [[nodiscard]] std::string footer() const;

    std::string noun_;
    std::vector<Column> columns_;
    std::vector<Row> rows_;
};

class Sheet {
  public:
    void add(std::string property, Cell cell) { lines_.emplace_back(std::move(property), std::move(cell)); }

    [[nodiscard]] std::string text(const TextStyle& style) const;
    [[nodiscard]] OrderedJson json() const;

  private:
    std::vector<std::pair<std::string, Cell>> lines_;
};

}  // namespace volchain::client
