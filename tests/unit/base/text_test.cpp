// SPDX-License-Identifier: MIT
#include "base/text.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace volchain::text_test {
namespace {

bool accepted(std::string_view name) {
    try {
        check_name("disk", name);
        EXPECT_TRUE(valid_name(name));
        return true;
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
        EXPECT_FALSE(valid_name(name));
        return false;
    }
}

TEST(Text, NamesThatUsersMayChoose) {
    EXPECT_TRUE(accepted("a"));
    EXPECT_TRUE(accepted("vor dem Umbau, größer"));
    EXPECT_TRUE(accepted("2026-01-01T00:00:00Z"));
    EXPECT_TRUE(accepted(std::string(max_name_bytes, 'x')));
}

TEST(Text, NamesThatAreRefused) {
    EXPECT_FALSE(accepted(""));
    EXPECT_FALSE(accepted(std::string(max_name_bytes + 1, 'x')));
    EXPECT_FALSE(accepted(std::string(10'000, 'x')));
    EXPECT_FALSE(accepted("a/b"));
    EXPECT_FALSE(accepted("../a"));
    EXPECT_FALSE(accepted(" a"));
    EXPECT_FALSE(accepted("a "));
    EXPECT_FALSE(accepted("a\nb"));
    EXPECT_FALSE(accepted(std::string_view("a\0b", 3)));
    EXPECT_FALSE(accepted("\xff"));
    EXPECT_FALSE(accepted("\xc0\xaf"));          // overlong '/'
    EXPECT_FALSE(accepted("\xed\xa0\x80"));      // surrogate
    EXPECT_FALSE(accepted("\xf4\x90\x80\x80"));  // above U+10FFFF
    EXPECT_FALSE(accepted("\xe2\x82"));          // cut
}

TEST(Text, Utf8OfAllLengths) {
    EXPECT_TRUE(valid_utf8("a\xc3\xa9\xe2\x82\xac\xf0\x9f\x90\xa7"));
    EXPECT_FALSE(valid_utf8("\xf0\x9f\x90"));
}

TEST(Text, ClippingCutsBetweenCharacters) {
    EXPECT_EQ(clipped("abc", 3), "abc");
    EXPECT_EQ(clipped("abcd", 3), "abc...");
    EXPECT_EQ(clipped("a\xc3\xa9z", 2), "a...");
}

TEST(Text, QuotingMakesControlCharactersVisible) {
    EXPECT_EQ(quote("a b"), "'a b'");
    EXPECT_EQ(quote("a\n\xff"), "'a\\x0a\\xff'");
    EXPECT_EQ(quote(std::string(1000, 'x')), "'" + std::string(200, 'x') + "...'");
}

TEST(Text, FileNamePartIsSafe) {
    EXPECT_EQ(file_name_part("root disk/1"), "root_disk_1");
    EXPECT_EQ(file_name_part("../x"), "_.._x");
    EXPECT_EQ(file_name_part("-rf"), "_-rf");
    EXPECT_EQ(file_name_part(""), "_");
    EXPECT_EQ(file_name_part(std::string(500, 'a'), 10), std::string(10, 'a'));
}

TEST(Text, Base64OfEveryLength) {
    // RFC 4648, section 10.
    EXPECT_EQ(base64(""), "");
    EXPECT_EQ(base64("f"), "Zg==");
    EXPECT_EQ(base64("fo"), "Zm8=");
    EXPECT_EQ(base64("foo"), "Zm9v");
    EXPECT_EQ(base64("foobar"), "Zm9vYmFy");
    EXPECT_EQ(base64(std::string("\x00\xff\xfe", 3)), "AP/+");
}

TEST(Text, Base64ReadAgain) {
    const std::string all("\x00\x01\xff\xfe abc", 8);
    for (std::size_t size = 0; size <= all.size(); ++size)
        EXPECT_EQ(from_base64(base64(all.substr(0, size))), all.substr(0, size));
    for (const char* wrong : {"A", "AB", "ABC", "A===", "AB=C", "Zg==Zg==", "Z\n==", "====", "Zm9v="})
        EXPECT_EQ(from_base64(wrong), std::nullopt) << wrong;
}

}  // namespace
}  // namespace volchain::text_test
