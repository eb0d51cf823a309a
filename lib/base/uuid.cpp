// SPDX-License-Identifier: MIT
#include "base/uuid.h"

#include <sys/random.h>

#include <cerrno>

#include "base/error.h"

namespace volchain {
namespace {

constexpr bool separator_before(std::size_t byte) {
    return byte == 4 || byte == 6 || byte == 8 || byte == 10;
}

std::optional<std::uint8_t> hex_digit(char c) noexcept {
    if (c >= '0' && c <= '9') return static_cast<std::uint8_t>(c - '0');
    if (c >= 'a' && c <= 'f') return static_cast<std::uint8_t>(c - 'a' + 10);
    if (c >= 'A' && c <= 'F') return static_cast<std::uint8_t>(c - 'A' + 10);
    return std::nullopt;
}

}  // namespace

Uuid Uuid::make() {
    Uuid id;
    if (::getrandom(id.bytes_.data(), id.bytes_.size(), 0) != static_cast<ssize_t>(id.bytes_.size()))
        throw system_error(errno, "cannot get random bytes for a UUID");
    id.bytes_[6] = static_cast<std::uint8_t>((id.bytes_[6] & 0x0f) | 0x40);  // version 4
    id.bytes_[8] = static_cast<std::uint8_t>((id.bytes_[8] & 0x3f) | 0x80);  // variant of RFC 9562
    return id;
}

std::optional<Uuid> Uuid::parse(std::string_view text) noexcept {
    if (text.size() != 36) return std::nullopt;
    Uuid id;
    std::size_t at = 0;
    for (std::size_t byte = 0; byte < id.bytes_.size(); ++byte) {
        if (separator_before(byte)) {
            if (text[at] != '-' && text[at] != '_') return std::nullopt;
            ++at;
        }
        const auto high = hex_digit(text[at]);
        const auto low = hex_digit(text[at + 1]);
        if (!high || !low) return std::nullopt;
        id.bytes_[byte] = static_cast<std::uint8_t>(*high << 4 | *low);
        at += 2;
    }
    return id;
}

std::string Uuid::str(char separator) const {
    constexpr std::string_view digits = "0123456789abcdef";
    std::string text;
    text.reserve(36);
    for (std::size_t byte = 0; byte < bytes_.size(); ++byte) {
        if (separator_before(byte)) text += separator;
        text += digits[bytes_[byte] >> 4];
        text += digits[bytes_[byte] & 0x0f];
    }
    return text;
}

}  // namespace volchain
