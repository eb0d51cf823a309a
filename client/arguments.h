// SPDX-License-Identifier: MIT
//
// The command line, read by the rows of the verb table. Common options may stand anywhere, those of a verb
// after it; "--" ends them. Names of objects are chosen by users, so after the verb no word is taken for a
// noun or verb any more (which is why this is no CLI11 application with subcommands: there, a VM called
// "pool" would be one).
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "client/verb.h"

namespace volchain::client {

enum class JsonMode { off, compact, pretty };

/// What the common options say.
struct Settings {
    std::optional<JsonMode> json;
    bool json_as_fits = false;  ///< -j
    bool legend = true;
    bool pager = true;
    bool quiet = false;
    bool wait = true;
    bool ask_password = true;
    bool help = false;
    bool version = false;
};

/// What was given to a verb, checked against its row. To ask for an option that the row does not declare is
/// an error.
class Arguments {
  public:
    explicit Arguments(const Verb& verb) : verb_(&verb) {}

    [[nodiscard]] const Verb& verb() const noexcept { return *verb_; }
    /// The argument at a place where usage wants one.
    [[nodiscard]] const std::string& at(std::size_t place) const { return words_.at(place); }
    [[nodiscard]] std::optional<std::string> word(std::size_t place) const;
    /// All from that place on.
    [[nodiscard]] std::vector<std::string> words_from(std::size_t place) const;

    [[nodiscard]] bool flag(std::string_view option) const { return !values(option).empty(); }
    [[nodiscard]] std::optional<std::string> value(std::string_view option) const;
    [[nodiscard]] std::vector<std::string> values(std::string_view option) const;

    // --- for the parser ---
    void add_word(std::string word) { words_.push_back(std::move(word)); }
    void add_option(const Option& option, std::string value);
    /// Throws UsageError unless the words are as many as usage wants.
    void check_words() const;

  private:
    const Verb* verb_;
    std::vector<std::string> words_;
    std::map<std::string_view, std::vector<std::string>> options_;
};

struct CommandLine {
    Settings settings;
    /// As far as the command line says one; without a verb only --help and --version mean something.
    std::string noun;
    std::optional<Arguments> arguments;
};

/// Throws UsageError. `words` are without the program's name.
[[nodiscard]] CommandLine parse_command_line(const std::vector<std::string>& words);

}  // namespace volchain::client
