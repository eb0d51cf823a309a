// SPDX-License-Identifier: MIT
//
// Points in time as the project stores and shows them: microseconds since the epoch, UTC.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace volchain {

using Microseconds = std::chrono::microseconds;
using Timestamp = std::chrono::time_point<std::chrono::system_clock, Microseconds>;

[[nodiscard]] Timestamp now() noexcept;

/// As D-Bus has it (names ending in Usec); 0 is "never".
[[nodiscard]] std::uint64_t to_usec(Timestamp time) noexcept;
[[nodiscard]] Timestamp from_usec(std::uint64_t usec) noexcept;

/// "2026-03-29T01:59:59Z": sorts by time, means the same in every time zone, and may stand in a file name.
[[nodiscard]] std::string format_utc(Timestamp time);

}  // namespace volchain
