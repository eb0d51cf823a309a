// SPDX-License-Identifier: MIT
//
// signature<T>: the D-Bus type of a C++ type, at compile time:
//     bool, integers, double               b, y n q i u x t, d
//     std::string; string_view to append   s
//     std::vector<T>, std::map<K, V>       aT, a{KV}
//     std::tuple, std::pair                (...)
//     a struct with as_tuple               (...)
//     a class that marshals itself         ObjectPath, Signature, UnixFd, Variant, Options
// Anything else does not compile. as_tuple is a static function template of the struct that returns its
// members, `std::tie(self.a, self.b)` for any `Self& self`. A class that marshals itself has dbus_signature,
// append_to() and read_from().
#pragma once

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace volchain::bus {

/// Text that is put together at compile time: the signatures.
template <std::size_t N>
struct StaticText {
    char text[N + 1]{};

    constexpr StaticText() = default;
    constexpr explicit StaticText(const char (&literal)[N + 1]) {
        for (std::size_t i = 0; i < N; ++i) text[i] = literal[i];
    }
    [[nodiscard]] constexpr const char* c_str() const noexcept { return text; }
    [[nodiscard]] constexpr std::string_view view() const noexcept { return {text, N}; }
};

template <std::size_t N>
StaticText(const char (&)[N]) -> StaticText<N - 1>;

template <std::size_t A, std::size_t B>
constexpr StaticText<A + B> operator+(const StaticText<A>& left, const StaticText<B>& right) {
    StaticText<A + B> both;
    for (std::size_t i = 0; i < A; ++i) both.text[i] = left.text[i];
    for (std::size_t i = 0; i < B; ++i) both.text[A + i] = right.text[i];
    return both;
}

namespace detail {

template <typename T>
concept Integer = std::integral<T> && !std::same_as<T, bool> && !std::same_as<T, char> &&
                  (sizeof(T) > 1 || std::same_as<T, std::uint8_t>);
template <typename T>
concept Text = std::convertible_to<const T&, std::string_view>;
template <typename T>
concept Custom = requires {
    T::dbus_signature;
};
template <typename T>
concept Struct = requires(T& value) {
    T::as_tuple(value);
};

template <typename T>
inline constexpr bool is_vector = false;
template <typename T>
inline constexpr bool is_vector<std::vector<T>> = true;
template <typename T>
inline constexpr bool is_map = false;
template <typename K, typename V>
inline constexpr bool is_map<std::map<K, V>> = true;
template <typename T>
inline constexpr bool is_tuple = false;
template <typename... T>
inline constexpr bool is_tuple<std::tuple<T...>> = true;
template <typename A, typename B>
inline constexpr bool is_tuple<std::pair<A, B>> = true;
/// A list of arguments, where a pair would be one argument.
template <typename T>
inline constexpr bool is_argument_list = false;
template <typename... T>
inline constexpr bool is_argument_list<std::tuple<T...>> = true;

template <typename T>
inline constexpr bool unsupported = false;

/// The integers of D-Bus go by size, whatever C++ calls them.
template <Integer T>
constexpr auto as_wire_integer(T number) {
    if constexpr (sizeof(T) == 1)
        return static_cast<std::uint8_t>(number);
    else if constexpr (sizeof(T) == 2)
        return static_cast<std::conditional_t<std::is_signed_v<T>, std::int16_t, std::uint16_t>>(number);
    else if constexpr (sizeof(T) == 4)
        return static_cast<std::conditional_t<std::is_signed_v<T>, std::int32_t, std::uint32_t>>(number);
    else
        return static_cast<std::conditional_t<std::is_signed_v<T>, std::int64_t, std::uint64_t>>(number);
}
template <Integer T>
using WireInteger = decltype(as_wire_integer(T{}));

template <Integer T>
consteval StaticText<1> integer_code() {
    StaticText<1> code;
    code.text[0] = (std::is_signed_v<T> ? " nix" : "yqut")[std::countr_zero(sizeof(T))];
    return code;
}

template <typename Tuple>
struct TupleSignature;

template <typename T>
consteval auto make_signature() {
    if constexpr (std::same_as<T, bool>)
        return StaticText("b");
    else if constexpr (Integer<T>)
        return integer_code<T>();
    else if constexpr (std::same_as<T, double>)
        return StaticText("d");
    else if constexpr (Text<T>)
        return StaticText("s");
    else if constexpr (Custom<T>)
        return T::dbus_signature;
    else if constexpr (is_vector<T>)
        return StaticText("a") + make_signature<typename T::value_type>();
    else if constexpr (is_map<T>)
        return StaticText("a{") + make_signature<typename T::key_type>() +
               make_signature<typename T::mapped_type>() + StaticText("}");
    else if constexpr (is_tuple<T>)
        return StaticText("(") + TupleSignature<T>::value + StaticText(")");
    else if constexpr (Struct<T>)
        return StaticText("(") + TupleSignature<decltype(T::as_tuple(std::declval<T&>()))>::value +
               StaticText(")");
    else
        static_assert(unsupported<T>, "this type has no D-Bus form: see signature.h");
}

template <template <typename...> typename Tuple, typename... T>
struct TupleSignature<Tuple<T...>> {
    static constexpr auto value = (StaticText("") + ... + make_signature<std::remove_cvref_t<T>>());
};

}  // namespace detail

/// The D-Bus type of T: signature<std::vector<ObjectPath>>.view() == "ao".
template <typename T>
inline constexpr auto signature = detail::make_signature<T>();
/// The types of a list of arguments, given as a tuple: without the brackets of a struct.
template <typename Tuple>
inline constexpr auto body_signature = detail::TupleSignature<Tuple>::value;

}  // namespace volchain::bus
