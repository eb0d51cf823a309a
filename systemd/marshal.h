// SPDX-License-Identifier: MIT
//
// Typed marshalling: append(message, value) and read<T>(reader), for the types that have a signature
// (signature.h). What is written is right by its type; what is read is checked in every step, because it
// comes from somebody else.
#pragma once

#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/error.h"
#include "systemd/message.h"
#include "systemd/signature.h"
#include "systemd/wire_types.h"

namespace volchain::bus {

template <typename T>
void append(Message& message, const T& value) {
    if constexpr (std::same_as<T, bool>) {
        const int flag = value ? 1 : 0;  // what sd-bus takes
        message.put('b', &flag);
    } else if constexpr (detail::Integer<T> || std::same_as<T, double>) {
        message.put(signature<T>.text[0], &value);
    } else if constexpr (detail::Text<T>) {
        message.put_text(value);
    } else if constexpr (detail::Custom<T>) {
        value.append_to(message);
    } else if constexpr (std::same_as<T, std::vector<std::uint8_t>>) {
        message.put_bytes(value);
    } else if constexpr (detail::is_vector<T>) {
        message.open('a', signature<typename T::value_type>.c_str());
        for (const typename T::value_type& element : value) append(message, element);
        message.close();
    } else if constexpr (detail::is_map<T>) {
        static constexpr auto entry =
            body_signature<std::pair<typename T::key_type, typename T::mapped_type>>;
        static constexpr auto entries = StaticText("{") + entry + StaticText("}");
        message.open('a', entries.c_str());
        for (const auto& [key, mapped] : value) {
            message.open('e', entry.c_str());
            append(message, key);
            append(message, mapped);
            message.close();
        }
        message.close();
    } else if constexpr (detail::is_tuple<T>) {
        message.open('r', body_signature<T>.c_str());
        std::apply([&message](const auto&... field) { (append(message, field), ...); }, value);
        message.close();
    } else {
        static_assert(detail::Struct<const T>, "this type has no D-Bus form: see signature.h");
        append(message, T::as_tuple(value));
    }
}

template <typename T>
[[nodiscard]] T read(Reader& reader);

namespace detail {

template <typename T>
T read_vector(Reader& reader) {
    T values;
    if (!reader.enter('a', signature<typename T::value_type>.c_str()))
        throw Error(ErrorCode::invalid_argument, "D-Bus message: an array is missing");
    while (!reader.at_end()) values.push_back(read<typename T::value_type>(reader));
    reader.exit();
    return values;
}

template <typename T>
T read_map(Reader& reader) {
    static constexpr auto entry = body_signature<std::pair<typename T::key_type, typename T::mapped_type>>;
    static constexpr auto entries = StaticText("{") + entry + StaticText("}");
    T values;
    if (!reader.enter('a', entries.c_str()))
        throw Error(ErrorCode::invalid_argument, "D-Bus message: a dictionary is missing");
    while (reader.enter('e', entry.c_str())) {
        auto key = read<typename T::key_type>(reader);
        if (!values.emplace(std::move(key), read<typename T::mapped_type>(reader)).second)
            throw Error(ErrorCode::invalid_argument, "D-Bus message: a dictionary has a key twice");
        reader.exit();
    }
    reader.exit();
    return values;
}

template <typename Tuple>
struct TupleReader;
template <template <typename...> typename Tuple, typename... T>
struct TupleReader<Tuple<T...>> {
    // The order of evaluation inside braces is that of the fields.
    static Tuple<T...> fields(Reader& reader) { return Tuple<T...>{read<T>(reader)...}; }
};
template <>
struct TupleReader<std::tuple<>> {
    static std::tuple<> fields(Reader&) { return {}; }
};

}  // namespace detail

template <typename T>
T read(Reader& reader) {
    if constexpr (std::same_as<T, bool>) {
        int flag = 0;
        reader.get('b', &flag);
        return flag != 0;
    } else if constexpr (detail::Integer<T> || std::same_as<T, double>) {
        T number{};
        reader.get(signature<T>.text[0], &number);
        return number;
    } else if constexpr (std::same_as<T, std::string>) {
        const char* text = nullptr;
        reader.get('s', static_cast<void*>(&text));
        return text;
    } else if constexpr (detail::Custom<T>) {
        return T::read_from(reader);
    } else if constexpr (std::same_as<T, std::vector<std::uint8_t>>) {
        return reader.get_bytes();
    } else if constexpr (detail::is_vector<T>) {
        return detail::read_vector<T>(reader);
    } else if constexpr (detail::is_map<T>) {
        return detail::read_map<T>(reader);
    } else if constexpr (detail::is_tuple<T>) {
        if (!reader.enter('r', body_signature<T>.c_str()))
            throw Error(ErrorCode::invalid_argument, "D-Bus message: a struct is missing");
        T value = detail::TupleReader<T>::fields(reader);
        reader.exit();
        return value;
    } else {
        static_assert(detail::Struct<T>, "this type has no D-Bus form: see signature.h");
        T value{};
        const auto fields = T::as_tuple(value);
        if (!reader.enter('r', body_signature<std::remove_const_t<decltype(fields)>>.c_str()))
            throw Error(ErrorCode::invalid_argument, "D-Bus message: a struct is missing");
        std::apply(
            [&reader](auto&... field) {
                ((field = read<std::remove_reference_t<decltype(field)>>(reader)), ...);
            },
            fields);
        reader.exit();
        return value;
    }
}

/// The whole body as a tuple; InvalidArgument unless it is of exactly these types.
template <typename Tuple>
[[nodiscard]] Tuple read_body(const Message& message) {
    Reader reader(message);
    reader.expect(body_signature<Tuple>.view());
    return detail::TupleReader<Tuple>::fields(reader);
}

}  // namespace volchain::bus
