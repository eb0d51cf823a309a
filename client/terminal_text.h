// SPDX-License-Identifier: MIT
//
// Text on a terminal: how wide it is, that it cannot command the terminal, and colours.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace volchain::client {

/// What the surroundings let text look like; looked at once by Output, chosen freely in tests.
struct TextStyle {
    bool legend = true;  ///< header and footer of tables
    bool colour = false;
    bool utf8 = true;  ///< box drawing characters can be shown
};

/// How a word is meant; shown as a colour where there are colours.
enum class Tone { plain, good, warning, bad, dim, strong };

/// Columns that `text` takes. In a locale that does not know its characters each one counts for one.
[[nodiscard]] std::size_t display_width(std::string_view text);

/// `text` with control characters made visible ("\x1b"): descriptions, paths and messages may hold any.
[[nodiscard]] std::string printable(std::string_view text);

[[nodiscard]] std::string coloured(std::string text, Tone tone, const TextStyle& style);

/// Whether the locale's character set is UTF-8, once setlocale() was called.
[[nodiscard]] bool utf8_locale();

}  // namespace volchain::client
