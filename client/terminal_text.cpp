// SPDX-License-Identifier: MIT
#include "client/terminal_text.h"

#include <fmt/format.h>
#include <langinfo.h>

#include <cwchar>

namespace volchain::client {
namespace {

bool control(unsigned char c) noexcept {
    return c < 0x20 || c == 0x7f;
}

std::string_view escape(Tone tone) noexcept {
    switch (tone) {
        case Tone::good:
            return "\x1b[32m";
        case Tone::warning:
            return "\x1b[33m";
        case Tone::bad:
            return "\x1b[31m";
        case Tone::dim:
            return "\x1b[2m";
        case Tone::strong:
            return "\x1b[1m";
        case Tone::plain:
            break;
    }
    return {};
}

std::size_t character_width(char32_t character) {
    const int width = ::wcwidth(static_cast<wchar_t>(character));
    return width < 0 ? 1 : static_cast<std::size_t>(width);
}

}  // namespace

std::size_t display_width(std::string_view text) {
    std::size_t width = 0;
    for (std::size_t i = 0; i < text.size();) {
        const auto lead = static_cast<unsigned char>(text[i]);
        const std::size_t length = lead < 0xc0 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
        char32_t character = length == 1 ? lead : lead & (0xffU >> (length + 1));
        for (std::size_t k = 1; k < length && i + k < text.size(); ++k)
            character = (character << 6) | (static_cast<unsigned char>(text[i + k]) & 0x3fU);
        width += character_width(character);
        i += length;
    }
    return width;
}

std::string printable(std::string_view text) {
    std::string visible;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const auto byte = static_cast<unsigned char>(text[i]);
        // C1 control characters (U+0080 to U+009F) are two bytes in UTF-8, and some terminals obey them.
        const bool c1 = byte == 0xc2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xa0;
        if (control(byte)) {
            visible += fmt::format("\\x{:02x}", byte);
        } else if (c1) {
            visible += fmt::format("\\u{:04x}", static_cast<unsigned char>(text[++i]));
        } else {
            visible += text[i];
        }
    }
    return visible;
}

std::string coloured(std::string text, Tone tone, const TextStyle& style) {
    if (!style.colour || tone == Tone::plain || text.empty()) return text;
    return fmt::format("{}{}\x1b[0m", escape(tone), text);
}

bool utf8_locale() {
    return std::string_view(::nl_langinfo(CODESET)) == "UTF-8";
}

}  // namespace volchain::client
