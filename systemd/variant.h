// SPDX-License-Identifier: MIT
//
// Variant: a value of any D-Bus type, with its type: what options, job results and the properties of foreign
// objects are made of. A value in itself; copies are independent (but share file descriptors).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "systemd/marshal.h"

namespace volchain::bus {

class Variant {
  public:
    static constexpr StaticText dbus_signature{"v"};

    /// As in sd_bus_message_open_container(3): kind 'a', 'r' (struct), 'e' (dict entry) or 'v', and the types
    /// inside.
    struct Container {
        char kind = 'a';
        std::string contents;
        std::vector<Variant> items;
        bool operator==(const Container&) const;
    };
    using Bytes = std::vector<std::uint8_t>;  // "ay": one item a byte would be wasteful
    using Content = std::variant<std::uint8_t, bool, std::int16_t, std::uint16_t, std::int32_t, std::uint32_t,
                                 std::int64_t, std::uint64_t, double, std::string, ObjectPath, bus::Signature,
                                 UnixFd, Bytes, Container>;

    /// An empty string.
    Variant() : content_(std::string()) {}
    Variant(const char* text) : content_(std::string(text)) {}  // NOLINT(google-explicit-constructor)
    template <typename T>
    requires(!std::same_as<T, Variant> && !std::is_pointer_v<T>) Variant(const T& value)
        : content_(content_of(value)) {}  // NOLINT(google-explicit-constructor)

    [[nodiscard]] std::string signature() const;
    [[nodiscard]] const Content& content() const noexcept { return content_; }

    /// The value where its type is exactly that of T.
    template <typename T>
    [[nodiscard]] std::optional<T> get() const {
        if (signature() != bus::signature<T>.view()) return std::nullopt;
        return value_as<T>();
    }

    bool operator==(const Variant& other) const { return content_ == other.content_; }

    void append_to(Message& message) const;
    [[nodiscard]] static Variant read_from(Reader& reader);

  private:
    explicit Variant(Content content) : content_(std::move(content)) {}

    void append_content(Message& message) const;
    [[nodiscard]] static Variant read_content(Reader& reader);
    [[nodiscard]] static Variant read_basic(Reader& reader, char type);

    template <typename T>
    [[nodiscard]] static Content content_of(const T& value);
    template <typename T>
    [[nodiscard]] T value_as() const;
    [[nodiscard]] const std::vector<Variant>& items() const { return std::get<Container>(content_).items; }

    Content content_;
};

/// a{sv}
using Dict = std::map<std::string, Variant>;

template <typename T>
Variant::Content Variant::content_of(const T& value) {
    if constexpr (detail::Integer<T>) {
        return detail::as_wire_integer(value);
    } else if constexpr (detail::Text<T>) {
        return std::string(std::string_view(value));
    } else if constexpr (std::same_as<T, Variant>) {
        return Container{'v', value.signature(), {value}};
    } else if constexpr (std::same_as<T, Bytes>) {
        return value;
    } else if constexpr (detail::is_vector<T>) {
        Container array{'a', std::string(bus::signature<typename T::value_type>.view()), {}};
        for (const typename T::value_type& item : value) array.items.push_back(Variant(content_of(item)));
        return array;
    } else if constexpr (detail::is_map<T>) {
        const std::string entry(
            body_signature<std::pair<typename T::key_type, typename T::mapped_type>>.view());
        Container array{'a', "{" + entry + "}", {}};
        for (const auto& [key, mapped] : value) {
            Container pair{'e', entry, {}};
            pair.items.push_back(Variant(content_of(key)));
            pair.items.push_back(Variant(content_of(mapped)));
            array.items.push_back(Variant(Content(std::move(pair))));
        }
        return array;
    } else if constexpr (detail::is_tuple<T>) {
        Container fields{'r', std::string(body_signature<T>.view()), {}};
        std::apply([&fields](const auto&... f) { (fields.items.push_back(Variant(content_of(f))), ...); },
                   value);
        return fields;
    } else if constexpr (detail::Struct<const T>) {
        return content_of(T::as_tuple(value));
    } else {
        return value;  // bool, double, ObjectPath, Signature, UnixFd
    }
}

template <typename T>
T Variant::value_as() const {
    if constexpr (detail::Integer<T>) {
        return static_cast<T>(std::get<detail::WireInteger<T>>(content_));
    } else if constexpr (std::same_as<T, Variant>) {
        return items().at(0);
    } else if constexpr (std::same_as<T, Bytes>) {
        return std::get<Bytes>(content_);
    } else if constexpr (detail::is_vector<T>) {
        T values;
        for (const Variant& item : items()) values.push_back(item.value_as<typename T::value_type>());
        return values;
    } else if constexpr (detail::is_map<T>) {
        T values;
        for (const Variant& entry : items())
            if (!values
                     .emplace(entry.items().at(0).value_as<typename T::key_type>(),
                              entry.items().at(1).value_as<typename T::mapped_type>())
                     .second)
                throw Error(ErrorCode::invalid_argument, "D-Bus message: a dictionary has a key twice");
        return values;
    } else if constexpr (detail::is_tuple<T>) {
        return [this]<std::size_t... I>(std::index_sequence<I...>) {
            return T{items().at(I).template value_as<std::tuple_element_t<I, T>>()...};
        }
        (std::make_index_sequence<std::tuple_size_v<T>>());
    } else if constexpr (detail::Struct<T>) {
        T value{};
        auto fields = T::as_tuple(value);
        using Values = decltype(std::apply([](auto&... f) { return std::make_tuple(f...); }, fields));
        fields = value_as<Values>();
        return value;
    } else {
        return std::get<T>(content_);  // bool, double, string, ObjectPath, Signature, UnixFd
    }
}

}  // namespace volchain::bus
