// SPDX-License-Identifier: MIT
#include "client/cell.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/text.h"
#include "client/units.h"

namespace volchain::client {
namespace {

constexpr std::size_t short_id_length = 8;

template <std::size_t N>
bool one_of(const std::array<std::string_view, N>& words, const std::string& word) {
    return std::find(words.begin(), words.end(), word) != words.end();
}

Tone tone_of(const std::string& state) {
    static constexpr std::array<std::string_view, 4> good{"ok", "running", "connected", "succeeded"};
    static constexpr std::array<std::string_view, 10> bad{
        "failed",  "crashed", "unreachable", "broken",       "missing",
        "corrupt", "illegal", "cancelled",   "unresponsive", "error"};
    static constexpr std::array<std::string_view, 8> warning{
        "locked", "partial", "paused", "creating", "cancelling", "read-only", "previewed", "warning"};
    if (one_of(good, state)) return Tone::good;
    if (one_of(bad, state)) return Tone::bad;
    return one_of(warning, state) ? Tone::warning : Tone::plain;
}

}  // namespace

std::string short_id(const std::string& uuid) {
    return uuid.substr(0, short_id_length);
}

Cell Cell::with_number(Kind kind, std::uint64_t value) {
    Cell cell(kind);
    cell.number_ = value;
    return cell;
}
Cell Cell::with_text(Kind kind, std::string value) {
    Cell cell(kind);
    cell.text_ = std::move(value);
    return cell;
}

Cell Cell::blank() {
    return Cell(Kind::blank);
}
Cell Cell::text(std::string value) {
    return with_text(Kind::text, std::move(value));
}
Cell Cell::state(std::string word) {
    return with_text(Kind::state, std::move(word));
}
Cell Cell::number(std::uint64_t value) {
    return with_number(Kind::number, value);
}
Cell Cell::size(std::uint64_t bytes) {
    return with_number(Kind::size, bytes);
}
Cell Cell::time(std::uint64_t usec) {
    return usec == 0 ? Cell() : with_number(Kind::time, usec);
}
Cell Cell::duration(std::uint64_t usec) {
    return with_number(Kind::duration, usec);
}
Cell Cell::percent(double value) {
    Cell cell(Kind::percent);
    cell.percent_ = value;
    return cell;
}
Cell Cell::boolean(bool value) {
    return with_number(Kind::boolean, value ? 1 : 0);
}
Cell Cell::id(std::string uuid) {
    return with_text(Kind::id, std::move(uuid));
}

Cell Cell::object(std::string kind, std::string uuid, std::string name) {
    Cell cell = with_text(Kind::object, std::move(uuid));
    cell.object_kind_ = std::move(kind);
    cell.name_ = std::move(name);
    return cell;
}

Cell Cell::list(std::vector<Cell> items) {
    Cell cell(Kind::list);
    cell.items_ = std::move(items);
    return cell;
}

Cell Cell::record(std::vector<std::pair<std::string, Cell>> fields) {
    Cell cell(Kind::record);
    cell.fields_ = std::move(fields);
    return cell;
}

bool Cell::lists_objects() const {
    return kind_ == Kind::list && std::all_of(items_.begin(), items_.end(), [](const Cell& item) {
               return item.kind_ == Kind::object || item.kind_ == Kind::record;
           });
}

std::string Cell::brief() const {
    switch (kind_) {
        case Kind::id:
            return short_id(text_);
        case Kind::object:
            return name_.empty() ? short_id(text_) : printable(name_);
        case Kind::list:
            if (lists_objects()) return fmt::format("{}", items_.size());
            break;
        default:
            return full();
    }
    std::vector<std::string> all;
    for (const Cell& item : items_) all.push_back(item.brief());
    return joined(all, ", ");
}

/// Everything but a list, which has lines.
std::string Cell::full() const {
    switch (kind_) {
        case Kind::blank:
            return "";
        case Kind::text:
        case Kind::state:
        case Kind::id:
            return text_.empty() ? "-" : printable(text_);
        case Kind::number:
            return fmt::format("{}", number_);
        case Kind::size:
            return format_size(number_);
        case Kind::time:
            return format_time(number_);
        case Kind::duration:
            return format_duration(number_);
        case Kind::percent:
            return fmt::format("{:.0f}%", percent_);
        case Kind::boolean:
            return number_ != 0 ? "yes" : "no";
        case Kind::object:
            return name_.empty() ? text_ : fmt::format("{} ({})", printable(name_), text_);
        case Kind::none:
        case Kind::list:
        case Kind::record:
            break;
    }
    if (kind_ == Kind::none) return "-";
    std::vector<std::string> all;
    for (const Cell& item : items_) all.push_back(item.full());
    for (const auto& [name, value] : fields_) all.push_back(value.full());
    return joined(all, "  ");
}

std::vector<std::string> Cell::lines() const {
    if (kind_ != Kind::list) return {full()};
    std::vector<std::string> all;
    for (const Cell& item : items_) all.push_back(item.full());
    if (all.empty()) all.emplace_back("-");
    return all;
}

OrderedJson Cell::json() const {
    OrderedJson value;
    switch (kind_) {
        case Kind::none:
        case Kind::blank:
            return value;
        case Kind::text:
        case Kind::state:
        case Kind::id:
            return text_;
        case Kind::number:
        case Kind::size:
        case Kind::time:
        case Kind::duration:
            return number_;
        case Kind::percent:
            return percent_;
        case Kind::boolean:
            return number_ != 0;
        case Kind::object:
            value["kind"] = object_kind_;
            value["id"] = text_;
            value["name"] = name_.empty() ? OrderedJson() : OrderedJson(name_);
            return value;
        case Kind::list:
            value = OrderedJson::array();
            for (const Cell& item : items_) value.push_back(item.json());
            return value;
        case Kind::record:
            value = OrderedJson::object();
            for (const auto& [name, field] : fields_) value[name] = field.json();
            return value;
    }
    return value;
}

Tone Cell::tone() const {
    switch (kind_) {
        case Kind::state:
            return tone_of(text_);
        case Kind::none:
        case Kind::id:
            return Tone::dim;
        default:
            return Tone::plain;
    }
}

bool Cell::right() const {
    switch (kind_) {
        case Kind::number:
        case Kind::size:
        case Kind::duration:
        case Kind::percent:
            return true;
        default:
            return lists_objects();
    }
}

}  // namespace volchain::client
