// SPDX-License-Identifier: MIT
#include "base/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>

#include "base/error.h"

namespace volchain {
namespace {

constexpr std::string_view base64_digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

bool control(char c) noexcept {
    return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
}
bool continuation(char c) noexcept {
    return (static_cast<unsigned char>(c) & 0xc0) == 0x80;
}

/// Length of the well-formed UTF-8 sequence at the start of `text`, 0 where there is none (Unicode table
/// 3-7).
std::size_t utf8_sequence(std::string_view text) noexcept {
    const auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(text[i]); };
    const auto tail = [&](std::size_t from, std::size_t length) {
        if (text.size() < length) return std::size_t{0};
        for (std::size_t i = from; i < length; ++i)
            if (!continuation(text[i])) return std::size_t{0};
        return length;
    };
    const std::uint8_t lead = byte(0);
    if (lead < 0x80) return 1;
    if (lead < 0xc2 || lead > 0xf4 || text.size() < 2) return 0;
    if (lead < 0xe0) return tail(1, 2);
    const std::uint8_t second = byte(1);
    if (lead == 0xe0 && second < 0xa0) return 0;  // overlong
    if (lead == 0xed && second > 0x9f) return 0;  // surrogates
    if (lead == 0xf0 && second < 0x90) return 0;  // overlong
    if (lead == 0xf4 && second > 0x8f) return 0;  // above U+10FFFF
    return tail(1, lead < 0xf0 ? 3 : 4);
}

std::string flaw_of_name(std::string_view name) {
    if (name.empty()) return "must not be empty";
    if (name.size() > max_name_bytes) return fmt::format("longer than {} bytes", max_name_bytes);
    if (!valid_utf8(name)) return "is not valid UTF-8";
    if (std::any_of(name.begin(), name.end(), control)) return "holds a control character";
    if (name.find('/') != std::string_view::npos) return "holds a '/'";
    if (name.front() == ' ' || name.back() == ' ') return "begins or ends with a space";
    return {};
}

}  // namespace

bool valid_utf8(std::string_view text) noexcept {
    while (!text.empty()) {
        const std::size_t length = utf8_sequence(text);
        if (length == 0) return false;
        text.remove_prefix(length);
    }
    return true;
}

bool valid_name(std::string_view name) {
    return flaw_of_name(name).empty();
}

void check_name(std::string_view what, std::string_view name) {
    const std::string flaw = flaw_of_name(name);
    if (!flaw.empty()) throw Error(ErrorCode::invalid_argument, "{} name {}: {}", what, quote(name), flaw);
}

std::string clipped(std::string_view text, std::size_t limit) {
    if (text.size() <= limit) return std::string(text);
    std::size_t end = limit;
    while (end > 0 && continuation(text[end])) --end;
    return fmt::format("{}...", text.substr(0, end));
}

std::string quote(std::string_view text) {
    const std::string shown = clipped(text);
    std::string visible;
    for (std::string_view rest = shown; !rest.empty();) {
        const std::size_t length = utf8_sequence(rest);
        if (length == 0 || control(rest.front())) {
            visible += fmt::format("\\x{:02x}", static_cast<unsigned char>(rest.front()));
            rest.remove_prefix(1);
        } else {
            visible += rest.substr(0, length);
            rest.remove_prefix(length);
        }
    }
    return "'" + visible + "'";
}

std::string joined(const std::vector<std::string>& items, std::string_view separator) {
    std::string text;
    for (const std::string& item : items) {
        if (&item != &items.front()) text += separator;
        text += item;
    }
    return text;
}

std::string base64(std::string_view bytes) {
    std::string text;
    text.reserve((bytes.size() + 2) / 3 * 4);
    for (std::size_t at = 0; at < bytes.size(); at += 3) {
        const std::string_view group = bytes.substr(at, 3);
        std::uint32_t bits = 0;
        for (std::size_t i = 0; i < 3; ++i)
            bits = bits << 8 | (i < group.size() ? static_cast<std::uint8_t>(group[i]) : 0U);
        for (std::size_t i = 0; i < 4; ++i)
            text += i <= group.size() ? base64_digits[bits >> (18 - 6 * i) & 63U] : '=';
    }
    return text;
}

std::optional<std::string> from_base64(std::string_view text) {
    if (text.size() % 4 != 0) return std::nullopt;
    std::string bytes;
    bytes.reserve(text.size() / 4 * 3);
    for (std::size_t at = 0; at < text.size(); at += 4) {
        const std::string_view group = text.substr(at, 4);
        const std::size_t digits = std::min(group.find('='), group.size());
        const bool last = at + 4 == text.size();
        const bool padding = group.substr(digits).find_first_not_of('=') == std::string_view::npos;
        if (digits < 2 || (digits < 4 && !last) || !padding) return std::nullopt;
        std::uint32_t bits = 0;
        for (std::size_t i = 0; i < 4; ++i) {
            const std::size_t value = i < digits ? base64_digits.find(group[i]) : 0;
            if (value == std::string_view::npos) return std::nullopt;
            bits = bits << 6 | static_cast<std::uint32_t>(value);
        }
        for (std::size_t i = 0; i + 1 < digits; ++i) bytes += static_cast<char>(bits >> (16 - 8 * i) & 0xffU);
    }
    return bytes;
}

std::string file_name_part(std::string_view name, std::size_t limit) {
    std::string part;
    for (const char c : name.substr(0, limit)) {
        const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                           c == '.' || c == '_' || c == '-';
        part += plain ? c : '_';
    }
    if (part.empty() || part.front() == '.' || part.front() == '-') part.insert(part.begin(), '_');
    return part;
}

}  // namespace volchain
