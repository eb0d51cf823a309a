// SPDX-License-Identifier: MIT
#include "client/help.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

namespace volchain::client {
namespace {

using Lines = std::vector<std::pair<std::string, std::string_view>>;

/// Two columns under a title.
std::string section(std::string_view title, const Lines& lines) {
    if (lines.empty()) return {};
    std::size_t width = 0;
    for (const auto& [left, right] : lines) width = std::max(width, left.size());
    std::string text = fmt::format("\n{}\n", title);
    for (const auto& [left, right] : lines) text += fmt::format("  {:<{}}  {}\n", left, width, right);
    return text;
}

std::string left_side(const Option& option) {
    std::string text = option.letter == 0    ? std::string("    ")
                       : option.name.empty() ? fmt::format("-{}", option.letter)
                                             : fmt::format("-{}, ", option.letter);
    if (!option.name.empty()) text += fmt::format("--{}", option.name);
    if (!option.value.empty()) text += fmt::format("={}", option.value);
    return text;
}

Lines lines_of(const std::vector<Option>& options) {
    Lines lines;
    for (const Option& option : options) lines.emplace_back(left_side(option), option.help);
    return lines;
}

Lines lines_of_verbs(std::string_view noun) {
    Lines lines;
    for (const Verb& verb : verbs())
        if (verb.noun == noun && !verb.hidden)
            lines.emplace_back(fmt::format("{}{}{}", verb.name, verb.usage.empty() ? "" : " ", verb.usage),
                               verb.help);
    return lines;
}

OrderedJson json_of(const std::vector<Option>& options) {
    OrderedJson all = OrderedJson::array();
    for (const Option& option : options) {
        OrderedJson row;
        row["name"] = option.name;
        row["letter"] = option.letter == 0 ? std::string() : std::string(1, option.letter);
        row["value"] = option.value;
        row["help"] = option.help;
        all.push_back(std::move(row));
    }
    return all;
}

}  // namespace

std::string general_help() {
    Lines lines;
    for (const Noun& noun : nouns()) lines.emplace_back(noun.name, noun.help);
    return "volchainctl [OPTIONS] NOUN VERB [ARGUMENTS]\n"
           "\nLooks after the disks of virtual machines on this host, by asking volchaind.\n" +
           section("Nouns (volchainctl NOUN --help lists the verbs of one):", lines) +
           section("Verbs without a noun:", lines_of_verbs("")) +
           section("Options:", lines_of(common_options())) +
           "\nAn object is named by its name, its id, the first four or more characters of that, or the path "
           "of an\n"
           "image. See volchainctl(1).\n";
}

std::string noun_help(std::string_view noun) {
    return fmt::format("volchainctl {} VERB [ARGUMENTS]\n", noun) + section("Verbs:", lines_of_verbs(noun)) +
           fmt::format("\nvolchainctl {} VERB --help tells a verb's options. See volchainctl(1).\n", noun);
}

std::string verb_help(const Verb& verb) {
    return fmt::format("volchainctl {}{}{}{}{}{}\n\n{}\n", verb.noun, verb.noun.empty() ? "" : " ", verb.name,
                       verb.usage.empty() ? "" : " ", verb.usage, verb.options.empty() ? "" : " [OPTIONS]",
                       verb.help) +
           section("Options:", lines_of(verb.options)) +
           section("Options of all verbs:", lines_of(common_options()));
}

OrderedJson help_json() {
    OrderedJson all;
    all["options"] = json_of(common_options());
    all["verbs"] = OrderedJson::array();
    for (const Verb& verb : verbs()) {
        OrderedJson row;
        row["noun"] = verb.noun;
        row["verb"] = verb.name;
        row["usage"] = verb.usage;
        row["help"] = verb.help;
        row["hidden"] = verb.hidden;
        row["options"] = json_of(verb.options);
        all["verbs"].push_back(std::move(row));
    }
    return all;
}

}  // namespace volchain::client
