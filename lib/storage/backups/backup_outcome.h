// SPDX-License-Identifier: MIT
//
// How a backup, or a restore, is to end: what the operations that end one (end_backup.h, end_restore.h) are asked for, as they
// remember it in the job's plan.
#pragma once

#include <array>
#include <string>

#include "storage/records/records.h"

namespace volchain::storage {

enum class Outcome {
    finish,  ///< it is complete
    abort,   ///< nobody wants it
    fail,    ///< it is worth nothing: what it holds goes, and the record says why
};
constexpr auto enum_names(Outcome) {
    return std::to_array<EnumName<Outcome>>(
        {{Outcome::finish, "finish"}, {Outcome::abort, "abort"}, {Outcome::fail, "fail"}});
}

/// A class with a constructor, so that it may be handed to coroutines.
struct EndPlan {
    explicit EndPlan(Outcome how) : outcome(how) {}

    Outcome outcome;
    std::string why;  ///< of fail

    [[nodiscard]] Json json() const { return Json{{"outcome", word(outcome)}, {"why", why}}; }
    [[nodiscard]] static EndPlan parse(const JobRecord& job) {
        const JsonReader reader(job.plan, "plan of job " + job.id.str(), ErrorCode::internal);
        EndPlan plan(from_word<Outcome>(reader.at("outcome").string()).value_or(Outcome::abort));
        plan.why = reader.at("why").string();
        return plan;
    }
};

}  // namespace volchain::storage
