// SPDX-License-Identifier: MIT
//
// Retention: which of a schedule's snapshots are kept. Pure: times in, a choice out. For each kind of period the newest
// snapshot of each of the last N periods that have one is kept; what no rule keeps may go. The newest of all always stays.
#pragma once

#include <cstdint>
#include <vector>

#include "base/uuid.h"
#include "storage/schedules/time_zone.h"

namespace volchain::storage {

/// How many are kept; 0 in all of them: all.
struct Keep {
    std::uint32_t last = 0;
    std::uint32_t hourly = 0;
    std::uint32_t daily = 0;
    std::uint32_t weekly = 0;
    std::uint32_t monthly = 0;
    std::uint32_t yearly = 0;
    [[nodiscard]] bool all() const noexcept {
        return (last | hourly | daily | weekly | monthly | yearly) == 0;
    }
    friend bool operator==(const Keep&, const Keep&) = default;
};

struct KeptCandidate {
    Uuid id;
    Timestamp created;
};

/// Those that may go, oldest first. Days and all longer periods are those of the time zone.
[[nodiscard]] std::vector<Uuid> superfluous(const Keep& keep, std::vector<KeptCandidate> snapshots,
                                            const TimeZone& zone);

}  // namespace volchain::storage
