// SPDX-License-Identifier: MIT
#include "client/arguments.h"

#include <gtest/gtest.h>

#include <set>

#include "base/error.h"
#include "client/help.h"
#include "client/usage_error.h"

namespace volchain::client::arguments_test {
namespace {

using Words = std::vector<std::string>;

std::string refusal(const Words& words) {
    try {
        (void)parse_command_line(words);
        return "accepted";
    } catch (const UsageError& error) {
        return error.what();
    }
}

TEST(Arguments, NounVerbWordsAndOptions) {
    const CommandLine line = parse_command_line({"snapshot", "create", "web", "--quiesce=require", "before",
                                                 "--disk", "a", "--disk=b", "--description", "--x"});
    EXPECT_EQ(line.noun, "snapshot");
    ASSERT_TRUE(line.arguments);
    EXPECT_EQ(line.arguments->verb().name, "create");
    EXPECT_EQ(line.arguments->at(0), "web");
    EXPECT_EQ(line.arguments->word(1), "before");
    EXPECT_EQ(line.arguments->word(2), std::nullopt);
    EXPECT_EQ(line.arguments->value("quiesce"), "require");
    EXPECT_EQ(line.arguments->values("disk"), (Words{"a", "b"}));
    EXPECT_EQ(line.arguments->value("description"), "--x");
    EXPECT_FALSE(line.arguments->flag("freeze-timeout"));
}

TEST(Arguments, CommonOptionsStandAnywhere) {
    const CommandLine line =
        parse_command_line({"-q", "--json=pretty", "pool", "--no-legend", "list", "--no-pager", "--no-wait"});
    EXPECT_TRUE(line.settings.quiet);
    EXPECT_EQ(line.settings.json, JsonMode::pretty);
    EXPECT_FALSE(line.settings.legend);
    EXPECT_FALSE(line.settings.pager);
    EXPECT_FALSE(line.settings.wait);
    EXPECT_TRUE(line.settings.ask_password);
    EXPECT_EQ(parse_command_line({"status", "--json", "short"}).settings.json, JsonMode::compact);
    EXPECT_EQ(parse_command_line({"status", "--json=off"}).settings.json, JsonMode::off);
    const CommandLine letters = parse_command_line({"status", "-qj"});
    EXPECT_TRUE(letters.settings.quiet && letters.settings.json_as_fits);
}

TEST(Arguments, NamesThatLookLikeNounsVerbsAndOptions) {
    EXPECT_EQ(parse_command_line({"vm", "show", "pool"}).arguments->at(0), "pool");
    EXPECT_EQ(parse_command_line({"vm", "show", "list"}).arguments->at(0), "list");
    EXPECT_EQ(parse_command_line({"vm", "show", "--", "--json"}).arguments->at(0), "--json");
    EXPECT_EQ(parse_command_line({"vm", "set-config", "web", "-"}).arguments->at(1), "-");
    EXPECT_EQ(parse_command_line({"vm", "show", ""}).arguments->at(0), "");
}

TEST(Arguments, WrongLinesSayWhy) {
    EXPECT_EQ(refusal({}), "what is to be done? See 'volchainctl --help'");
    EXPECT_EQ(refusal({"vm"}), "what is to be done with the vm? See 'volchainctl vm --help'");
    EXPECT_EQ(refusal({"vn"}), "'vn' is none of volchainctl's nouns and verbs: see 'volchainctl --help'");
    EXPECT_EQ(refusal({"vm", "lst"}), "'lst' is no verb of vm: see 'volchainctl vm --help'");
    EXPECT_EQ(refusal({"vm", "show"}), "'volchainctl vm show' needs VM: see 'volchainctl vm show --help'");
    EXPECT_EQ(refusal({"vm", "show", "a", "b"}),
              "'b' is one argument too many for 'volchainctl vm show': see 'volchainctl vm show --help'");
    EXPECT_EQ(refusal({"job", "wait", "a", "b", "c"}), "accepted");
    EXPECT_EQ(refusal({"job", "wait"}),
              "'volchainctl job wait' needs JOB: see 'volchainctl job wait --help'");
    EXPECT_EQ(refusal({"pool", "list", "--create"}),
              "'--create' is not an option of 'volchainctl pool list': see 'volchainctl pool list --help'");
    EXPECT_EQ(refusal({"--create", "pool", "list"}),
              "'--create' is not an option of volchainctl; a verb's options follow the verb");
    EXPECT_EQ(refusal({"status", "-x"}),
              "'-x' is not an option of 'volchainctl status': see 'volchainctl status --help'");
    EXPECT_EQ(refusal({"status", "--quiet=yes"}), "--quiet takes no value");
    EXPECT_EQ(refusal({"status", "--json"}), "--json needs a value: short|pretty|off");
    EXPECT_EQ(refusal({"status", "--json=long"}), "--json cannot be 'long': it is one of short|pretty|off");
    EXPECT_EQ(refusal({"snapshot", "create", "w", "--quiesce=auto", "--quiesce=off"}),
              "--quiesce is given twice");
}

TEST(Arguments, HelpNeedsNoVerb) {
    EXPECT_TRUE(parse_command_line({"--help"}).settings.help);
    EXPECT_EQ(parse_command_line({"vm", "-h"}).noun, "vm");
    EXPECT_TRUE(parse_command_line({"vm", "show", "--help"}).arguments);
    EXPECT_TRUE(parse_command_line({"--version"}).settings.version);
}

TEST(Arguments, OnlyDeclaredOptionsCanBeAskedFor) {
    const CommandLine line = parse_command_line({"pool", "list"});
    EXPECT_THROW((void)line.arguments->value("create"), Error);
}

TEST(VerbTable, Usages) {
    const auto all = parameters("POOL [NAME] JOB...");
    ASSERT_EQ(all.size(), 3U);
    EXPECT_EQ(all[1].word, "NAME");
    EXPECT_TRUE(all[1].optional);
    EXPECT_EQ(all[2].word, "JOB");
    EXPECT_TRUE(all[2].repeated);
    EXPECT_FALSE(all[2].optional);
    EXPECT_TRUE(parameters("").empty());
}

TEST(VerbTable, RowsAreWhole) {
    std::set<std::pair<std::string_view, std::string_view>> seen;
    for (const Verb& verb : verbs()) {
        EXPECT_TRUE(verb.noun.empty() || is_noun(verb.noun)) << verb.noun;
        EXPECT_FALSE(verb.name.empty() || verb.help.empty()) << verb.name;
        EXPECT_NE(verb.run, nullptr) << verb.name;
        EXPECT_TRUE(seen.emplace(verb.noun, verb.name).second)
            << verb.noun << " " << verb.name << " stands twice";
        for (const Option& option : verb.options)
            for (const Option& common : common_options())
                EXPECT_FALSE(option.name == common.name ||
                             (option.letter != 0 && option.letter == common.letter))
                    << option.name << " of " << verb.name;
    }
    for (const Noun& noun : nouns()) EXPECT_NE(find_verb(noun.name, "list"), nullptr) << noun.name;
}

TEST(Help, NamesEveryVerbAndOption) {
    for (const Verb& verb : verbs()) {
        const std::string above = verb.noun.empty() ? general_help() : noun_help(verb.noun);
        EXPECT_EQ(above.find("\n  " + std::string(verb.name)) != std::string::npos, !verb.hidden)
            << verb.name;
        for (const Option& option : verb.options)
            EXPECT_NE(verb_help(verb).find("--" + std::string(option.name)), std::string::npos)
                << option.name;
    }
    EXPECT_EQ(help_json()["verbs"].size(), verbs().size());
}

TEST(Help, OfOneVerb) {
    const std::string text = verb_help(*find_verb("snapshot", "set"));
    EXPECT_TRUE(
        text.starts_with("volchainctl snapshot set SNAPSHOT [OPTIONS]\n"
                         "\n"
                         "change what a snapshot is called\n"
                         "\n"
                         "Options:\n"
                         "      --name=NAME         its name from now on\n"
                         "      --description=TEXT  for people\n"))
        << text;
}

}  // namespace
}  // namespace volchain::client::arguments_test
