// SPDX-License-Identifier: MIT
//
// What a schedule is set to, as JSON: in the database and in manifests. Not its name, nor what it has done so far.
#pragma once

#include "storage/records/records.h"

namespace volchain::storage {

[[nodiscard]] Json schedule_settings(const ScheduleRecord& schedule);
void read_schedule_settings(const JsonReader& settings, ScheduleRecord& schedule);

struct KeepRule {
    const char* name;
    std::uint32_t Keep::*count;
};
/// "last", "hourly", ... with what each of them counts.
inline constexpr std::array<KeepRule, 6> keep_rules{{{"last", &Keep::last},
                                                     {"hourly", &Keep::hourly},
                                                     {"daily", &Keep::daily},
                                                     {"weekly", &Keep::weekly},
                                                     {"monthly", &Keep::monthly},
                                                     {"yearly", &Keep::yearly}}};

}  // namespace volchain::storage
