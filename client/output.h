// SPDX-License-Identifier: MIT
//
// Output: where all that volchainctl says goes. Results go to stdout, as text (through a pager on a terminal
// where they do not fit) or JSON; progress and notes to stderr, where -q keeps them away. It looks at the
// surroundings once.
#pragma once

#include <cstddef>
#include <string>

#include "client/arguments.h"
#include "client/table.h"

namespace volchain::client {

class Output {
  public:
    explicit Output(const Settings& settings);

    [[nodiscard]] bool json() const noexcept { return json_ != JsonMode::off; }
    [[nodiscard]] bool quiet() const noexcept { return quiet_; }
    /// Of what goes to stdout.
    [[nodiscard]] const TextStyle& style() const noexcept { return style_; }

    /// Tables and sheets.
    template <typename Printable>
    void print(const Printable& what) {
        if (json())
            print_json(what.json());
        else
            print_text(what.text(style_));
    }
    void print_json(const OrderedJson& document);
    void print_text(const std::string& text);
    /// Bytes as they are, never paged.
    void print_raw(const std::string& bytes);
    /// At once, for what is watched while it goes on.
    void print_line(const std::string& line);
    void print_json_line(const OrderedJson& document) { print_line(json_text(document)); }

    /// A line on stderr, unless -q.
    void note(const std::string& text);

  private:
    [[nodiscard]] std::string json_text(const OrderedJson& document) const;

    JsonMode json_;
    bool quiet_;
    bool pager_;
    TextStyle style_;
};

/// Rows and columns of the terminal that a descriptor is; of none: 0.
struct TerminalSize {
    std::size_t rows = 0;
    std::size_t columns = 0;
};
[[nodiscard]] TerminalSize terminal_size(int fd);

/// Whether text on this descriptor may be coloured: a terminal that can, and no NO_COLOR.
[[nodiscard]] bool may_colour(int fd);

/// Throws where something of what was printed did not arrive (a full disk). The last thing before the end.
void check_printed();

}  // namespace volchain::client
