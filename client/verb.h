// SPDX-License-Identifier: MIT
//
// Verb: one row of the table that volchainctl is made of. What a command line may hold, --help, shell
// completion and the check of the manual page all come from these rows; to add a verb is to add a row, and
// the function that it names, to the file of its noun.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "async/task.h"

namespace volchain::client {

class Session;
class Arguments;

struct Option {
    std::string_view name;  ///< "freeze-timeout", without the dashes
    /// What it takes: nothing (""), one of some words ("auto|require|off"), or a word that says what ("DISK",
    /// "SIZE"; see complete.h). With "..." at its end the option may be given several times.
    std::string_view value;
    std::string_view help;
    char letter = 0;
};

struct Verb {
    std::string_view noun;  ///< empty: a verb alone, like status
    std::string_view name;
    std::string_view usage;  ///< its arguments: "POOL NAME SIZE", "VM [NAME]", "JOB..."
    std::string_view help;   ///< one line
    async::Task<> (*run)(Session&, Arguments) = nullptr;
    std::vector<Option> options = {};
    bool hidden = false;  ///< not for people
};

/// One argument as `usage` declares it.
struct Parameter {
    std::string_view word;
    bool optional = false;
    bool repeated = false;
};
[[nodiscard]] std::vector<Parameter> parameters(std::string_view usage);

struct Noun {
    std::string_view name;
    std::string_view help;
};

/// All nouns and verbs, in the order in which help shows them.
[[nodiscard]] const std::vector<Noun>& nouns();
[[nodiscard]] const std::vector<Verb>& verbs();
/// The options that go with every verb.
[[nodiscard]] const std::vector<Option>& common_options();

[[nodiscard]] bool is_noun(std::string_view word);
/// Null where there is none.
[[nodiscard]] const Verb* find_verb(std::string_view noun, std::string_view name);

// The rows of each noun, beside their functions.
[[nodiscard]] std::vector<Verb> pool_verbs();
[[nodiscard]] std::vector<Verb> disk_verbs();
[[nodiscard]] std::vector<Verb> volume_verbs();
[[nodiscard]] std::vector<Verb> vm_verbs();
[[nodiscard]] std::vector<Verb> snapshot_verbs();
[[nodiscard]] std::vector<Verb> export_verbs();
[[nodiscard]] std::vector<Verb> backup_verbs();
[[nodiscard]] std::vector<Verb> schedule_verbs();
[[nodiscard]] std::vector<Verb> job_verbs();
[[nodiscard]] std::vector<Verb> host_verbs();

}  // namespace volchain::client
