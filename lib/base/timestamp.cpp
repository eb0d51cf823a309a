// SPDX-License-Identifier: MIT
#include "base/timestamp.h"

#include <fmt/chrono.h>

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <memory>

namespace volchain {

#ifdef VOLCHAIN_FAILPOINTS
namespace {

/// A test sets the clock ahead: the file `clock` beside its failpoints says by how many microseconds.
Microseconds set_ahead() noexcept {
    static const char* const directory = std::getenv("VOLCHAIN_FAILPOINTS");
    if (directory == nullptr) return {};
    const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(
        std::fopen((std::string(directory) + "/clock").c_str(), "re"), std::fclose);
    std::int64_t usec = 0;
    return file && std::fscanf(file.get(), "%" SCNd64, &usec) == 1 ? Microseconds(usec) : Microseconds();
}

}  // namespace
#else
static constexpr Microseconds set_ahead() noexcept {
    return {};
}
#endif

Timestamp now() noexcept {
    return std::chrono::time_point_cast<Microseconds>(std::chrono::system_clock::now()) + set_ahead();
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
