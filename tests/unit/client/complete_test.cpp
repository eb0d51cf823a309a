// SPDX-License-Identifier: MIT
#include "client/complete.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace volchain::client::complete_test {
namespace {

using Words = std::vector<std::string>;

Words candidates(const Words& words) {
    return complete(words).candidates;
}

TEST(Complete, NounsAndVerbs) {
    EXPECT_EQ(candidates({"v"}), (Words{"volume", "vm"}));
    EXPECT_EQ(candidates({"sta"}), Words{"status"});
    EXPECT_EQ(candidates({"comp"}), Words{}) << "a hidden verb";
    EXPECT_EQ(candidates({"pool", ""}), (Words{"list", "show", "create", "refresh", "remove"}));
    EXPECT_EQ(candidates({"--json", "pretty", "job", "c"}), Words{"cancel"});
    EXPECT_EQ(candidates({"-q", "job", "c"}), Words{"cancel"});
    EXPECT_EQ(candidates({"nonsense", ""}), Words{});
    EXPECT_EQ(candidates({}), Words{});
}

TEST(Complete, OptionsOfTheVerbAndOfAll) {
    EXPECT_EQ(candidates({"pool", "create", "--cr"}), Words{"--create"});
    EXPECT_EQ(candidates({"pool", "list", "--cr"}), Words{});
    EXPECT_EQ(candidates({"pool", "list", "--no-l"}), Words{"--no-legend"});
    EXPECT_EQ(candidates({"snapshot", "create", "web", "--q"}), (Words{"--quiesce=", "--quiet"}));
    // What was given is not offered again, unless it may be given often.
    EXPECT_EQ(candidates({"snapshot", "create", "--quiesce=off", "--q"}), Words{"--quiet"});
    EXPECT_EQ(candidates({"snapshot", "create", "--disk=a", "--di"}), Words{"--disk="});
    EXPECT_EQ(candidates({"vm", "show", "--", "--j"}), Words{}) << "after -- there are no options";
}

TEST(Complete, ValuesOfOptions) {
    EXPECT_EQ(candidates({"status", "--json=p"}), Words{"--json=pretty"});
    EXPECT_EQ(candidates({"status", "--json", "p"}), Words{"pretty"});
    EXPECT_EQ(candidates({"snapshot", "create", "--quiesce="}),
              (Words{"--quiesce=auto", "--quiesce=require", "--quiesce=off"}));
    const Completion disk = complete({"snapshot", "create", "web", "--disk=ro"});
    EXPECT_EQ(disk.object_kind, "disk");
    EXPECT_EQ(disk.prefix, "--disk=");
    EXPECT_EQ(disk.begun, "ro");
    EXPECT_TRUE(complete({"vm", "register", "x", "--config="}).files);
    EXPECT_FALSE(complete({"vm", "register", "x", "--id="}).files);
}

TEST(Complete, ArgumentsByTheirPlace) {
    EXPECT_EQ(complete({"disk", "attach", ""}).object_kind, "disk");
    EXPECT_EQ(complete({"disk", "attach", "--json=short", "d", ""}).object_kind, "vm");
    EXPECT_EQ(complete({"disk", "attach", "--json", "short", "d", ""}).object_kind, "vm");
    EXPECT_EQ(complete({"disk", "attach", "d", "v", ""}).object_kind, "");
    EXPECT_EQ(complete({"disk", "attach", "d", "v", "t", ""}).object_kind, "");
    EXPECT_EQ(complete({"job", "wait", "a", "b", ""}).object_kind, "job");
    EXPECT_TRUE(complete({"disk", "import", "p", "x"}).files);
    EXPECT_TRUE(complete({"pool", "create", "p", ""}).files);
}

TEST(Complete, PairsOfObjects) {
    const Completion disk = complete({"vm", "preview", "web", "ro"});
    EXPECT_EQ(disk.object_kind, "disk");
    EXPECT_EQ(matching(disk, {{"root", "64c0"}}), Words{"root="});
    const Completion snapshot = complete({"vm", "preview", "web", "root=one", "data=t"});
    EXPECT_EQ(snapshot.object_kind, "snapshot");
    EXPECT_EQ(matching(snapshot, {{"one", "64c0"}, {"two", "aa11"}}), Words{"data=two"});
    EXPECT_EQ(complete({"vm", "preview", "web", "root=one", ""}).object_kind, "disk");
}

TEST(Complete, ObjectsByNameElseById) {
    const std::vector<NameAndId> objects{{"web", "64c0"}, {"wiki", "aa11"}, {"64-bit", "bb22"}};
    Completion completion;
    completion.begun = "w";
    EXPECT_EQ(matching(completion, objects), (Words{"web", "wiki"}));
    completion.begun = "";
    EXPECT_EQ(matching(completion, objects), (Words{"64-bit", "web", "wiki"}));
    completion.begun = "64";
    EXPECT_EQ(matching(completion, objects), Words{"64-bit"});
    completion.begun = "aa";
    completion.prefix = "--vm=";
    EXPECT_EQ(matching(completion, objects), Words{"--vm=aa11"});
    // Jobs have no names.
    const std::vector<NameAndId> jobs{{"", "64c0"}, {"", "aa11"}};
    completion.begun = "";
    completion.prefix = "";
    EXPECT_EQ(matching(completion, jobs), (Words{"64c0", "aa11"}));
}

}  // namespace
}  // namespace volchain::client::complete_test
