// SPDX-License-Identifier: MIT
//
// Big-endian numbers in byte buffers: all numbers of qcow2 are stored so (specification, "General").
#pragma once

#include <concepts>
#include <cstddef>
#include <span>

namespace volchain::qcow2 {

/// The number in the first sizeof(T) bytes of `bytes`, which has at least as many.
template <std::unsigned_integral T>
[[nodiscard]] constexpr T load_be(std::span<const std::byte> bytes) noexcept {
    T value = 0;
    for (std::size_t i = 0; i < sizeof(T); ++i)
        value = static_cast<T>((value << 8) | std::to_integer<T>(bytes[i]));
    return value;
}

/// Puts `value` into the first sizeof(T) bytes of `bytes`, which has at least as many.
template <std::unsigned_integral T>
constexpr void store_be(std::span<std::byte> bytes, T value) noexcept {
    for (std::size_t i = sizeof(T); i > 0; --i) {
        bytes[i - 1] = static_cast<std::byte>(value & 0xff);
        value = static_cast<T>(value >> 4 >> 4);  // in two steps: a shift by the whole width is not defined
    }
}

}  // namespace volchain::qcow2
