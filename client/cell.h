// SPDX-License-Identifier: MIT
//
// Cell: one value that knows its type, so that tables, sheets and JSON all come from it: a size is "64M" for
// people and 67108864 in JSON, a time local for people and microseconds in JSON, an object its name for
// people, its id and name in JSON.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "client/terminal_text.h"

namespace volchain::client {

/// With its members in the order in which they were put.
using OrderedJson = nlohmann::ordered_json;

class Cell {
  public:
    /// Nothing: "-", null.
    Cell() = default;

    /// Not even a "-": for rows that have no such column.
    [[nodiscard]] static Cell blank();
    [[nodiscard]] static Cell text(std::string value);
    /// A word of a State or Status property.
    [[nodiscard]] static Cell state(std::string word);
    [[nodiscard]] static Cell number(std::uint64_t value);
    [[nodiscard]] static Cell size(std::uint64_t bytes);
    /// A moment in microseconds since the epoch; 0 is none.
    [[nodiscard]] static Cell time(std::uint64_t usec);
    [[nodiscard]] static Cell duration(std::uint64_t usec);
    /// 0 to 100.
    [[nodiscard]] static Cell percent(double value);
    [[nodiscard]] static Cell boolean(bool value);
    [[nodiscard]] static Cell id(std::string uuid);
    /// Another object; the name is empty where it is not known.
    [[nodiscard]] static Cell object(std::string kind, std::string uuid, std::string name);
    [[nodiscard]] static Cell list(std::vector<Cell> items);
    [[nodiscard]] static Cell record(std::vector<std::pair<std::string, Cell>> fields);

    /// One line, for a table: ids are cut, lists of objects counted.
    [[nodiscard]] std::string brief() const;
    /// All of it, for a sheet: a list has a line for each item.
    [[nodiscard]] std::vector<std::string> lines() const;
    [[nodiscard]] OrderedJson json() const;

    [[nodiscard]] Tone tone() const;
    /// Whether it stands at the right edge of its column.
    [[nodiscard]] bool right() const;

  private:
    enum class Kind {
        none,
        blank,
        text,
        state,
        number,
        size,
        time,
        duration,
        percent,
        boolean,
        id,
        object,
        list,
        record
    };
    explicit Cell(Kind kind) : kind_(kind) {}
    [[nodiscard]] static Cell with_number(Kind kind, std::uint64_t value);
    [[nodiscard]] static Cell with_text(Kind kind, std::string value);
    [[nodiscard]] std::string full() const;
    [[nodiscard]] bool lists_objects() const;

    Kind kind_ = Kind::none;
    std::uint64_t number_ = 0;
    double percent_ = 0;
    std::string text_;  // of an object: its id
    std::string name_;
    std::string object_kind_;
    std::vector<Cell> items_;
    std::vector<std::pair<std::string, Cell>> fields_;
};

/// "64c0ffee" of a whole UUID: what people are shown, and Find understands.
[[nodiscard]] std::string short_id(const std::string& uuid);

}  // namespace volchain::client
