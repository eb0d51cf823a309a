// SPDX-License-Identifier: MIT
#include "client/complete.h"

#include <algorithm>
#include <array>
#include <set>
#include <string_view>

#include "client/verb.h"

namespace volchain::client {
namespace {

/// How far the words before the last one have come.
struct Position {
    std::string noun;
    const Verb* verb = nullptr;
    std::size_t words = 0;           // arguments of the verb
    const Option* option = nullptr;  // its value comes next
    bool only_words = false;         // after "--"
    std::set<std::string_view> given;
};

std::vector<const Option*> options_at(const Position& position) {
    std::vector<const Option*> all;
    if (position.verb != nullptr)
        for (const Option& option : position.verb->options) all.push_back(&option);
    for (const Option& option : common_options()) all.push_back(&option);
    return all;
}

const Option* find_option(const Position& position, std::string_view name) {
    for (const Option* option : options_at(position))
        if (option->name == name) return option;
    return nullptr;
}

void step_over_option(Position& position, std::string_view word) {
    const std::size_t equals = word.find('=');
    const Option* option =
        find_option(position, word.substr(2, equals == word.npos ? word.npos : equals - 2));
    if (option == nullptr) return;
    position.given.insert(option->name);
    if (!option->value.empty() && equals == word.npos) position.option = option;
}

void step_over(Position& position, const std::string& word) {
    if (position.option != nullptr)
        position.option = nullptr;
    else if (!position.only_words && word == "--")
        position.only_words = true;
    else if (!position.only_words && word.starts_with("--"))
        step_over_option(position, word);
    else if (!position.only_words && word.size() > 1 && word.front() == '-')
        return;  // letters; none of them takes a value
    else if (position.verb != nullptr)
        ++position.words;
    else if (const Verb* verb = find_verb(position.noun, word))
        position.verb = verb;
    else
        position.noun = word;
}

void offer(Completion& completion, std::string_view candidate) {
    if (candidate.starts_with(completion.begun))
        completion.candidates.push_back(completion.prefix + std::string(candidate));
}

/// What a word of a usage or of an option's value stands for.
void offer_value(Completion& completion, std::string_view what) {
    static constexpr std::array<std::string_view, 9> objects{"POOL",   "DISK",   "VOLUME",   "VM", "SNAPSHOT",
                                                             "EXPORT", "BACKUP", "SCHEDULE", "JOB"};
    static constexpr std::array<std::string_view, 3> files{"FILE", "DIRECTORY", "SOCKET"};
    if (what.ends_with("...")) what.remove_suffix(3);
    if (const std::size_t pair = what.find('='); pair != what.npos) {
        const std::size_t equals = completion.begun.find('=');
        if (equals == std::string::npos) {
            completion.suffix = "=";
            return offer_value(completion, what.substr(0, pair));
        }
        completion.prefix += completion.begun.substr(0, equals + 1);
        completion.begun.erase(0, equals + 1);
        return offer_value(completion, what.substr(pair + 1));
    }
    if (what.find('|') != what.npos) {
        while (!what.empty()) {
            const std::size_t length = std::min(what.find('|'), what.size());
            offer(completion, what.substr(0, length));
            what.remove_prefix(std::min(length + 1, what.size()));
        }
    } else if (std::find(objects.begin(), objects.end(), what) != objects.end()) {
        completion.object_kind = what;
        for (char& c : completion.object_kind) c = static_cast<char>(c - 'A' + 'a');
    } else {
        completion.files = std::find(files.begin(), files.end(), what) != files.end();
    }
}

void offer_options(Completion& completion, const Position& position) {
    for (const Option* option : options_at(position)) {
        if (option->name.empty()) continue;
        if (position.given.contains(option->name) && !option->value.ends_with("...")) continue;
        offer(completion, "--" + std::string(option->name) + (option->value.empty() ? "" : "="));
    }
}

void offer_verbs(Completion& completion, const Position& position) {
    if (position.noun.empty())
        for (const Noun& noun : nouns()) offer(completion, noun.name);
    for (const Verb& verb : verbs())
        if (verb.noun == position.noun && !verb.hidden) offer(completion, verb.name);
}

void offer_words(Completion& completion, const Position& position) {
    const std::vector<Parameter> all = parameters(position.verb->usage);
    if (position.words < all.size())
        offer_value(completion, all[position.words].word);
    else if (!all.empty() && all.back().repeated)
        offer_value(completion, all.back().word);
}

}  // namespace

Completion complete(const std::vector<std::string>& words) {
    Completion completion;
    if (words.empty()) return completion;
    Position position;
    for (auto word = words.begin(); word + 1 != words.end(); ++word) step_over(position, *word);
    const std::string& last = words.back();
    completion.begun = last;
    const std::size_t equals = last.find('=');
    if (position.option != nullptr) {
        offer_value(completion, position.option->value);
    } else if (!position.only_words && last.starts_with("--") && equals != std::string::npos) {
        completion.prefix = last.substr(0, equals + 1);
        completion.begun = last.substr(equals + 1);
        if (const Option* option = find_option(position, last.substr(2, equals - 2)))
            offer_value(completion, option->value);
    } else if (!position.only_words && last.starts_with('-')) {
        offer_options(completion, position);
    } else if (position.verb == nullptr) {
        offer_verbs(completion, position);
    } else {
        offer_words(completion, position);
    }
    return completion;
}

std::vector<std::string> matching(const Completion& completion, const std::vector<NameAndId>& objects) {
    std::set<std::string> names;
    std::set<std::string> ids;
    for (const NameAndId& object : objects) {
        if (!object.name.empty() && object.name.starts_with(completion.begun))
            names.insert(completion.prefix + object.name + completion.suffix);
        const bool id_begun = object.name.empty() || !completion.begun.empty();
        if (id_begun && object.id.starts_with(completion.begun))
            ids.insert(completion.prefix + object.id + completion.suffix);
    }
    const std::set<std::string>& found = names.empty() ? ids : names;
    return {found.begin(), found.end()};
}

}  // namespace volchain::client
