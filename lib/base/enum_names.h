// SPDX-License-Identifier: MIT
//
// The words of an enumeration, as they stand in D-Bus properties, the database and messages. An enumeration
// that has words says so beside its definition:
//
//     enum class Colour { red, green };
//     constexpr auto enum_names(Colour) {
//         return std::to_array<EnumName<Colour>>({{Colour::red, "red"}, {Colour::green, "green"}});
//     }
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace volchain {

template <typename E>
using EnumName = std::pair<E, std::string_view>;

template <typename E>
[[nodiscard]] constexpr std::string_view word(E value) {
    for (const auto& [candidate, text] : enum_names(E{}))
        if (candidate == value) return text;
    return "?";
}

template <typename E>
[[nodiscard]] constexpr std::optional<E> from_word(std::string_view text) {
    for (const auto& [value, candidate] : enum_names(E{}))
        if (candidate == text) return value;
    return std::nullopt;
}

/// "auto, require, off": for messages that say what is allowed.
template <typename E>
[[nodiscard]] std::string all_words() {
    std::string all;
    for (const auto& [value, text] : enum_names(E{})) all.append(all.empty() ? "" : ", ").append(text);
    return all;
}

}  // namespace volchain
