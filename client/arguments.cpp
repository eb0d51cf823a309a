// SPDX-License-Identifier: MIT
#include "client/arguments.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "client/usage_error.h"

namespace volchain::client {
namespace {

/// "volchainctl vm tree", for messages.
std::string command(const Verb& verb) {
    return fmt::format("volchainctl {}{}{}", verb.noun, verb.noun.empty() ? "" : " ", verb.name);
}

std::string shown(const Option& option) {
    return option.name.empty() ? fmt::format("-{}", option.letter) : fmt::format("--{}", option.name);
}

class Parser {
  public:
    explicit Parser(const std::vector<std::string>& words) : words_(words) {}

    CommandLine parse() {
        while (next_ < words_.size()) {
            const std::string& word = words_[next_++];
            if (only_words_ || word.size() < 2 || word.front() != '-')
                take_word(word);
            else if (word == "--")
                only_words_ = true;
            else if (word.starts_with("--"))
                take_long(word.substr(2));
            else
                take_letters(word.substr(1));
        }
        if (!result_.settings.help && !result_.settings.version) check();
        return std::move(result_);
    }

  private:
    void take_word(const std::string& word) {
        if (result_.arguments)
            result_.arguments->add_word(word);
        else if (const Verb* verb = find_verb(result_.noun, word))
            result_.arguments.emplace(*verb);
        else if (result_.noun.empty() && is_noun(word))
            result_.noun = word;
        else
            unknown(word);
    }

    [[noreturn]] void unknown(const std::string& word) const {
        if (result_.noun.empty())
            throw UsageError("{} is none of volchainctl's nouns and verbs: see 'volchainctl --help'",
                             quote(word));
        throw UsageError("{} is no verb of {}: see 'volchainctl {} --help'", quote(word), result_.noun,
                         result_.noun);
    }

    void take_long(const std::string& text) {
        const std::size_t equals = text.find('=');
        const std::string name = text.substr(0, equals);
        const Option& option = find([&name](const Option& known) { return known.name == name; }, "--" + name);
        if (option.value.empty() && equals != std::string::npos)
            throw UsageError("--{} takes no value", name);
        if (option.value.empty())
            put(option, "");
        else
            put(option, equals == std::string::npos ? value_after(option) : text.substr(equals + 1));
    }

    /// "-qj", "-oFILE", "-o FILE"
    void take_letters(std::string_view letters) {
        for (; !letters.empty(); letters.remove_prefix(1)) {
            const char letter = letters.front();
            const Option& option = find([letter](const Option& known) { return known.letter == letter; },
                                        fmt::format("-{}", letter));
            if (option.value.empty()) {
                put(option, "");
                continue;
            }
            put(option, letters.size() > 1 ? std::string(letters.substr(1)) : value_after(option));
            return;
        }
    }

    template <typename Matches>
    const Option& find(Matches matches, const std::string& given) const {
        const auto in = [&matches](const std::vector<Option>& options) -> const Option* {
            const auto found = std::find_if(options.begin(), options.end(), matches);
            return found == options.end() ? nullptr : &*found;
        };
        if (const Option* option = in(common_options())) return *option;
        if (!result_.arguments)
            throw UsageError("{} is not an option of volchainctl; a verb's options follow the verb",
                             quote(given));
        if (const Option* option = in(result_.arguments->verb().options)) return *option;
        const std::string of = command(result_.arguments->verb());
        throw UsageError("{} is not an option of '{}': see '{} --help'", quote(given), of, of);
    }

    std::string value_after(const Option& option) {
        if (next_ == words_.size()) throw UsageError("{} needs a value: {}", shown(option), option.value);
        return words_[next_++];
    }

    void put(const Option& option, std::string value) {
        check_value(option, value);
        if (&option < common_options().data() || &option >= common_options().data() + common_options().size())
            result_.arguments->add_option(option, std::move(value));
        else
            put_common(option, value);
    }

    static void check_value(const Option& option, const std::string& value) {
        if (option.value.find('|') == std::string_view::npos) return;
        for (std::string_view rest = option.value; !rest.empty();) {
            const std::size_t length = std::min(rest.find('|'), rest.size());
            if (rest.substr(0, length) == value) return;
            rest.remove_prefix(std::min(length + 1, rest.size()));
        }
        throw UsageError("{} cannot be {}: it is one of {}", shown(option), quote(value), option.value);
    }

    void put_common(const Option& option, const std::string& value) {
        Settings& settings = result_.settings;
        if (option.name == "json")
            settings.json = value == "short"    ? JsonMode::compact
                            : value == "pretty" ? JsonMode::pretty
                                                : JsonMode::off;
        settings.json_as_fits = settings.json_as_fits || option.letter == 'j';
        settings.legend = settings.legend && option.name != "no-legend";
        settings.pager = settings.pager && option.name != "no-pager";
        settings.quiet = settings.quiet || option.name == "quiet";
        settings.wait = settings.wait && option.name != "no-wait";
        settings.ask_password = settings.ask_password && option.name != "no-ask-password";
        settings.help = settings.help || option.name == "help";
        settings.version = settings.version || option.name == "version";
    }

    void check() const {
        if (result_.arguments) return result_.arguments->check_words();
        if (result_.noun.empty()) throw UsageError("what is to be done? See 'volchainctl --help'");
        throw UsageError("what is to be done with the {}? See 'volchainctl {} --help'", result_.noun,
                         result_.noun);
    }

    const std::vector<std::string>& words_;
    std::size_t next_ = 0;
    bool only_words_ = false;
    CommandLine result_;
};

}  // namespace

std::optional<std::string> Arguments::word(std::size_t place) const {
    return place < words_.size() ? std::optional(words_[place]) : std::nullopt;
}

std::vector<std::string> Arguments::words_from(std::size_t place) const {
    return {words_.begin() + static_cast<std::ptrdiff_t>(std::min(place, words_.size())), words_.end()};
}

std::optional<std::string> Arguments::value(std::string_view option) const {
    const std::vector<std::string> all = values(option);
    return all.empty() ? std::nullopt : std::optional(all.back());
}

std::vector<std::string> Arguments::values(std::string_view option) const {
    const auto& declared = verb_->options;
    if (std::none_of(declared.begin(), declared.end(),
                     [option](const Option& row) { return row.name == option; }))
        throw Error(ErrorCode::internal, "'{}' declares no option --{}", command(*verb_), option);
    const auto given = options_.find(option);
    return given == options_.end() ? std::vector<std::string>() : given->second;
}

void Arguments::add_option(const Option& option, std::string value) {
    auto& given = options_[option.name];
    if (!given.empty() && !option.value.ends_with("..."))
        throw UsageError("{} is given twice", shown(option));
    given.push_back(std::move(value));
}

void Arguments::check_words() const {
    const std::vector<Parameter> wanted = parameters(verb_->usage);
    for (std::size_t i = words_.size(); i < wanted.size(); ++i)
        if (!wanted[i].optional)
            throw UsageError("'{}' needs {}: see '{} --help'", command(*verb_), wanted[i].word,
                             command(*verb_));
    const bool endless = !wanted.empty() && wanted.back().repeated;
    if (words_.size() > wanted.size() && !endless)
        throw UsageError("{} is one argument too many for '{}': see '{} --help'",
                         quote(words_[wanted.size()]), command(*verb_), command(*verb_));
}

CommandLine parse_command_line(const std::vector<std::string>& words) {
    return Parser(words).parse();
}

}  // namespace volchain::client
