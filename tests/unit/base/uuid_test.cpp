// SPDX-License-Identifier: MIT
#include "base/uuid.h"

#include <gtest/gtest.h>

#include <unordered_set>

namespace volchain::uuid_test {
namespace {

TEST(Uuid, RoundTripInBothForms) {
    const std::string text = "01234567-89ab-4def-8123-456789abcdef";
    const auto id = Uuid::parse(text);
    ASSERT_TRUE(id);
    EXPECT_EQ(id->str(), text);
    EXPECT_EQ(id->str('_'), "01234567_89ab_4def_8123_456789abcdef");
    EXPECT_EQ(Uuid::parse(id->str('_')), id);
    EXPECT_EQ(Uuid::parse("01234567-89AB-4DEF-8123-456789ABCDEF"), id);
}

TEST(Uuid, RefusesEverythingElse) {
    EXPECT_FALSE(Uuid::parse(""));
    EXPECT_FALSE(Uuid::parse("01234567-89ab-4def-8123-456789abcde"));
    EXPECT_FALSE(Uuid::parse("01234567-89ab-4def-8123-456789abcdefg"));
    EXPECT_FALSE(Uuid::parse("0123456789ab-4def-8123-456789abcdef00"));
    EXPECT_FALSE(Uuid::parse("0123456g-89ab-4def-8123-456789abcdef"));
    EXPECT_FALSE(Uuid::parse("01234567-89ab-4def-81234-56789abcdef"));
}

TEST(Uuid, MadeOnesAreDistinctAndOfVersion4) {
    std::unordered_set<Uuid> seen;
    for (int i = 0; i < 1000; ++i) {
        const Uuid id = Uuid::make();
        EXPECT_FALSE(id.nil());
        EXPECT_EQ(id.str()[14], '4');
        EXPECT_NE(std::string("89ab").find(id.str()[19]), std::string::npos);
        EXPECT_TRUE(seen.insert(id).second);
    }
}

TEST(Uuid, NilIsNone) {
    EXPECT_TRUE(Uuid{}.nil());
    EXPECT_EQ(Uuid{}.str(), "00000000-0000-0000-0000-000000000000");
}

}  // namespace
}  // namespace volchain::uuid_test
