// SPDX-License-Identifier: MIT
#include "client/table.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>

#include "base/error.h"
#include "base/text.h"

namespace volchain::client {
namespace {

constexpr std::string_view between_columns = "  ";

bool upper(char c) noexcept {
    return c >= 'A' && c <= 'Z';
}

/// "VMState" is "VM" and "State", "switch-usec" is "switch" and "usec".
std::vector<std::string> words_of(std::string_view name) {
    std::vector<std::string> words(1);
    for (std::size_t i = 0; i < name.size(); ++i) {
        const bool after_lower = i > 0 && upper(name[i]) && !upper(name[i - 1]);
        const bool before_lower =
            i > 0 && upper(name[i]) && i + 1 < name.size() && !upper(name[i + 1]) && name[i + 1] != '-';
        const bool dash = name[i] == '-' || name[i] == '_';
        if ((after_lower || before_lower || dash) && !words.back().empty()) words.emplace_back();
        if (!dash) words.back() += name[i];
    }
    return words;
}

std::string changed(std::string text, int (*change)(int)) {
    std::transform(text.begin(), text.end(), text.begin(),
                   [change](unsigned char c) { return static_cast<char>(change(c)); });
    return text;
}

/// A word as people write it inside of a sentence: names of the trade keep their form.
std::string spelled(const std::string& word) {
    static constexpr std::array<std::string_view, 6> names{"ID", "VM", "VMs", "QMP", "QEMU", "UID"};
    const std::string lower = changed(word, ::tolower);
    for (const std::string_view name : names)
        if (changed(std::string(name), ::tolower) == lower) return std::string(name);
    return lower;
}

std::vector<std::string> words_for_people(std::string_view name) {
    std::vector<std::string> words = words_of(name);
    const std::string last = changed(words.back(), ::tolower);
    if (words.size() > 1 && (last == "bytes" || last == "usec")) words.pop_back();
    return words;
}

/// One cell as it is printed.
struct Printed {
    std::string text;
    Tone tone = Tone::plain;
};

struct Layout {
    std::size_t width = 0;
    bool right = false;
};

std::string printed_row(const std::vector<Printed>& row, const std::vector<Layout>& columns,
                        const TextStyle& style) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) {
        if (i > 0) line += between_columns;
        const std::string padding(columns[i].width - display_width(row[i].text), ' ');
        const std::string text = coloured(row[i].text, row[i].tone, style);
        line += columns[i].right ? padding + text : text + padding;
    }
    line.resize(line.find_last_not_of(' ') + 1);
    return line + "\n";
}

}  // namespace

std::string key_of(std::string_view property) {
    std::vector<std::string> words = words_of(property);
    for (std::string& word : words) word = changed(word, ::tolower);
    return joined(words, "_");
}

std::string label_of(std::string_view property) {
    std::vector<std::string> words = words_for_people(property);
    for (std::string& word : words) word = spelled(word);
    words.front().front() = static_cast<char>(::toupper(static_cast<unsigned char>(words.front().front())));
    return joined(words, " ");
}

std::string header_of(std::string_view property) {
    return changed(joined(words_for_people(property), " "), ::toupper);
}

void Table::add(std::vector<Cell> cells, std::string art) {
    if (cells.size() != columns_.size())
        throw Error(ErrorCode::internal, "a table row has {} cells for {} columns", cells.size(),
                    columns_.size());
    rows_.push_back({std::move(art), std::move(cells)});
}

std::string Table::footer() const {
    const std::size_t count = rows_.size();
    return count == 0 ? fmt::format("No {}s.\n", noun_)
                      : fmt::format("\n{} {}{} listed.\n", count, noun_, count == 1 ? "" : "s");
}

std::string Table::text(const TextStyle& style) const {
    const bool counted = style.legend && !noun_.empty();
    if (rows_.empty()) return counted ? footer() : "";
    std::vector<std::vector<Printed>> printed(style.legend ? rows_.size() + 1 : rows_.size());
    std::vector<Layout> layout;
    for (std::size_t column = 0; column < columns_.size(); ++column) {
        if (!columns_[column].shown) continue;
        auto to = printed.begin();
        if (style.legend) (to++)->push_back({header_of(columns_[column].property), Tone::strong});
        Layout& place = layout.emplace_back();
        for (const Row& row : rows_) {
            const Cell& cell = row.cells[column];
            (to++)->push_back({(column == 0 ? row.art : "") + cell.brief(), cell.tone()});
            place.right = place.right || cell.right();
        }
        for (const auto& row : printed) place.width = std::max(place.width, display_width(row.back().text));
    }
    std::string out;
    for (const auto& row : printed) out += printed_row(row, layout, style);
    return counted ? out + footer() : out;
}

OrderedJson Table::json() const {
    OrderedJson all = OrderedJson::array();
    for (const Row& row : rows_) {
        OrderedJson object = OrderedJson::object();
        for (std::size_t i = 0; i < row.cells.size(); ++i)
            object[key_of(columns_[i].property)] = row.cells[i].json();
        all.push_back(std::move(object));
    }
    return all;
}

std::string Sheet::text(const TextStyle& style) const {
    std::size_t width = 0;
    for (const auto& [property, cell] : lines_) width = std::max(width, label_of(property).size());
    std::string out;
    for (const auto& [property, cell] : lines_) {
        std::string label = fmt::format("{:>{}}: ", label_of(property), width);
        for (const std::string& line : cell.lines()) {
            out += fmt::format("{}{}\n", label, coloured(line, cell.tone(), style));
            label.assign(width + 2, ' ');
        }
    }
    return out;
}

OrderedJson Sheet::json() const {
    OrderedJson object = OrderedJson::object();
    for (const auto& [property, cell] : lines_) object[key_of(property)] = cell.json();
    return object;
}

}  // namespace volchain::client
