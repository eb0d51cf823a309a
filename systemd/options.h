// SPDX-License-Identifier: MIT
//
// Options: the `a{sv} options` that a method ends in. A handler takes each option that it knows, then calls
// finish(): what was not taken is unknown, and that is InvalidArgument, as is a value of the wrong type.
// Nothing is ignored.
//
//     const auto speed = options.take<std::uint64_t>("speed", 0);
//     const auto base = options.take<bus::ObjectPath>("backing");   // an optional
//     options.finish();
//
// Where a whole number is wanted, any integer type of D-Bus whose value fits will do: people who call by hand
// write `i 5` or `u 5` where the interface says `t`.
#pragma once

#include <optional>
#include <string>
#include <utility>

#include "systemd/variant.h"

namespace volchain::bus {

class Options {
  public:
    static constexpr auto dbus_signature = signature<Dict>;

    Options() = default;
    /// `prefix` stands before the keys in messages: "snapshot." for the options inside the option `snapshot`.
    explicit Options(Dict values, std::string prefix = "")
        : values_(std::move(values)), prefix_(std::move(prefix)) {}

    /// The option, none where it was not given. T may be Options, for options inside an option.
    template <typename T>
    [[nodiscard]] std::optional<T> take(const std::string& name) {
        auto node = values_.extract(name);
        if (node.empty()) return std::nullopt;
        if (auto value = convert<T>(name, node.mapped())) return value;
        refuse(name, signature<T>.view(), node.mapped());
    }
    template <typename T>
    [[nodiscard]] T take(const std::string& name, T otherwise) {
        auto given = take<T>(name);
        return given ? *std::move(given) : std::move(otherwise);
    }

    /// Throws InvalidArgument, with the names, where something was not taken.
    void finish() const;

    void append_to(Message& message) const { append(message, values_); }
    [[nodiscard]] static Options read_from(Reader& reader) { return Options(read<Dict>(reader)); }

  private:
    template <typename T>
    [[nodiscard]] std::optional<T> convert(const std::string& name, const Variant& value) const {
        if constexpr (detail::Integer<T>) {
            return fitting<T>(value);
        } else if constexpr (std::same_as<T, Options>) {
            auto inner = value.get<Dict>();
            return inner ? std::optional(Options(*std::move(inner), prefix_ + name + ".")) : std::nullopt;
        } else {
            return value.get<T>();
        }
    }
    template <detail::Integer T>
    [[nodiscard]] static std::optional<T> fitting(const Variant& value) {
        const auto fit = [](const auto& number) -> std::optional<T> {
            using Given = std::remove_cvref_t<decltype(number)>;
            if constexpr (detail::Integer<Given>)
                if (std::in_range<T>(number)) return static_cast<T>(number);
            return std::nullopt;
        };
        return std::visit(fit, value.content());
    }
    [[noreturn]] void refuse(const std::string& name, std::string_view expected, const Variant& value) const;

    Dict values_;
    std::string prefix_;
};

}  // namespace volchain::bus
