// SPDX-License-Identifier: MIT
//
// What --help prints, made from the verb table; with --json the table itself, for programs (the check of the
// manual page is one).
#pragma once

#include <string>
#include <string_view>

#include "client/cell.h"
#include "client/verb.h"

namespace volchain::client {

[[nodiscard]] std::string general_help();
[[nodiscard]] std::string noun_help(std::string_view noun);
[[nodiscard]] std::string verb_help(const Verb& verb);
[[nodiscard]] OrderedJson help_json();

}  // namespace volchain::client
