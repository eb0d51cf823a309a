// SPDX-License-Identifier: MIT
#include "base/timestamp.h"

#include <fmt/chrono.h>

namespace volchain {

Timestamp now() noexcept {
    return std::chrono::time_point_cast<Microseconds>(std::chrono::system_clock::now());
}

std::uint64_t to_usec(Timestamp time) noexcept {
    return static_cast<std::uint64_t>(time.time_since_epoch().count());
}

Timestamp from_usec(std::uint64_t usec) noexcept {
    return Timestamp{Microseconds{static_cast<Microseconds::rep>(usec)}};
}

std::string format_utc(Timestamp time) {
    return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::chrono::system_clock::to_time_t(time)));
}

}  // namespace volchain
