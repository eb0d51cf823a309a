// SPDX-License-Identifier: MIT
#include "client/units.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <ctime>
#include <limits>
#include <optional>

#include "base/text.h"
#include "client/usage_error.h"

namespace volchain::client {
namespace {

constexpr std::string_view size_letters = "KMGTPE";

/// A whole number at the start of `text`, which is shortened by it.
std::optional<std::uint64_t> take_number(std::string_view& text) {
    std::uint64_t number = 0;
    const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (failure != std::errc()) return std::nullopt;
    text.remove_prefix(static_cast<std::size_t>(end - text.data()));
    return number;
}

/// How many bits to shift a number of this unit by.
std::optional<unsigned> size_shift(std::string_view unit) {
    if (unit.empty() || unit == "B") return 0;
    const char letter = unit.front() >= 'a' && unit.front() <= 'z'
                            ? static_cast<char>(unit.front() - 'a' + 'A')
                            : unit.front();
    const std::size_t place = size_letters.find(letter);
    if (place == std::string_view::npos || (unit.size() > 1 && unit.substr(1) != "iB")) return std::nullopt;
    return static_cast<unsigned>(10 * (place + 1));
}

struct TimeUnit {
    std::string_view name;
    std::uint64_t usec;
};
constexpr std::array time_units{TimeUnit{"us", 1},
                                TimeUnit{"ms", 1000},
                                TimeUnit{"s", 1'000'000},
                                TimeUnit{"m", 60'000'000},
                                TimeUnit{"min", 60'000'000},
                                TimeUnit{"h", 3'600'000'000},
                                TimeUnit{"d", 86'400'000'000}};

/// Microseconds of the number and unit at the start of `text`, which is shortened by them.
std::optional<std::uint64_t> take_duration(std::string_view& text) {
    const auto number = take_number(text);
    const std::size_t length = std::min(text.find_first_of("0123456789"), text.size());
    for (const TimeUnit& unit : time_units) {
        if (!number || text.substr(0, length) != unit.name) continue;
        text.remove_prefix(length);
        if (*number > std::numeric_limits<std::uint64_t>::max() / unit.usec) return std::nullopt;
        return *number * unit.usec;
    }
    return std::nullopt;
}

/// One decimal, where there is something to tell.
std::string short_number(double value, std::string_view unit) {
    std::string text = fmt::format("{:.1f}", value);
    if (text.ends_with(".0")) text.resize(text.size() - 2);
    return text.append(unit);
}

std::string two_units(std::uint64_t number, std::uint64_t per, std::string_view large,
                      std::string_view small) {
    const std::uint64_t rest = number % per;
    return rest == 0 ? fmt::format("{}{}", number / per, large)
                     : fmt::format("{}{} {}{}", number / per, large, rest, small);
}

}  // namespace

std::uint64_t parse_size(std::string_view text) {
    std::string_view unit = text;
    const auto number = take_number(unit);
    const auto shift = size_shift(unit);
    if (!number || !shift) throw UsageError("{} is not a size: write 4096, 512M, 10G", quote(text));
    if (*number > std::numeric_limits<std::uint64_t>::max() >> *shift)
        throw UsageError("the size {} is too large", quote(text));
    return *number << *shift;
}

std::uint64_t parse_duration(std::string_view text) {
    std::uint64_t total = 0;
    std::string_view rest = text;
    do {
        const auto part = take_duration(rest);
        if (!part || *part > std::numeric_limits<std::uint64_t>::max() - total)
            throw UsageError("{} is not a duration: write 500ms, 5s, 2m, 1h30m", quote(text));
        total += *part;
    } while (!rest.empty());
    return total;
}

std::string format_size(std::uint64_t bytes) {
    if (bytes < 1024) return fmt::format("{}B", bytes);
    std::size_t unit = 0;
    auto value = static_cast<double>(bytes) / 1024;
    // What would be shown as 1024 of a unit is 1 of the next.
    while (value >= 1023.95 && unit + 1 < size_letters.size()) {
        value /= 1024;
        ++unit;
    }
    return short_number(value, size_letters.substr(unit, 1));
}

std::string format_duration(std::uint64_t usec) {
    if (usec < 1000) return fmt::format("{}us", usec);
    if (usec < 999'950) return short_number(static_cast<double>(usec) / 1000, "ms");
    if (usec < 59'950'000) return short_number(static_cast<double>(usec) / 1e6, "s");
    const std::uint64_t seconds = (usec + 500'000) / 1'000'000;
    if (seconds < 3600) return two_units(seconds, 60, "m", "s");
    if (seconds < 86'400) return two_units(seconds / 60, 60, "h", "m");
    return two_units(seconds / 3600, 24, "d", "h");
}

std::string format_time(std::uint64_t usec) {
    const auto seconds = static_cast<std::time_t>(usec / 1'000'000);
    std::tm local{};
    std::array<char, 32> text{};
    // A time that is beyond what the calendar can show comes from a record that nobody wrote.
    if (::localtime_r(&seconds, &local) == nullptr ||
        std::strftime(text.data(), text.size(), "%Y-%m-%d %H:%M:%S", &local) == 0)
        return "?";
    return text.data();
}

}  // namespace volchain::client
