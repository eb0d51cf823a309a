// SPDX-License-Identifier: MIT
//
// Uuid: the identity of every object (pool, disk, volume, VM, snapshot, job). A value; random ones are
// version 4. The nil UUID stands for "none".
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace volchain {

class Uuid {
  public:
    constexpr Uuid() noexcept = default;

    [[nodiscard]] static Uuid make();
    /// The 36-character form, with '-' or, as in a D-Bus object path, '_'; either case.
    [[nodiscard]] static std::optional<Uuid> parse(std::string_view text) noexcept;

    [[nodiscard]] std::string str(char separator = '-') const;
    [[nodiscard]] bool nil() const noexcept { return *this == Uuid{}; }
    [[nodiscard]] explicit operator bool() const noexcept { return !nil(); }

    auto operator<=>(const Uuid&) const noexcept = default;

  private:
    friend struct std::hash<Uuid>;
    std::array<std::uint8_t, 16> bytes_{};
};

}  // namespace volchain

template <>
struct std::hash<volchain::Uuid> {
    std::size_t operator()(const volchain::Uuid& id) const noexcept {
        return std::hash<std::string_view>{}(
            {reinterpret_cast<const char*>(id.bytes_.data()), id.bytes_.size()});
    }
};
