// SPDX-License-Identifier: MIT
#include "base/json.h"

#include <gtest/gtest.h>

namespace volchain::json_test {
namespace {

std::string failure(const auto& reading) {
    try {
        reading();
        return "";
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::qemu_failed);
        return error.what();
    }
}

const Json document = Json::parse(R"({"name": "x", "list": [1, -2, "a"], "flag": true, "none": null})");
const JsonReader reader(document, "answer", ErrorCode::qemu_failed);

TEST(JsonReader, ReadsWhatIsThere) {
    EXPECT_EQ(reader.at("name").string(), "x");
    EXPECT_TRUE(reader.at("flag").boolean());
    EXPECT_EQ(reader.at("list").elements().at(0).u64(), 1U);
    EXPECT_EQ(reader.at("list").elements().at(1).i64(), -2);
    EXPECT_FALSE(reader.find("absent"));
    EXPECT_FALSE(reader.find("none"));
    EXPECT_EQ(reader.u64_or("absent", 7), 7U);
    EXPECT_EQ(reader.string_or("name", "y"), "x");
}

TEST(JsonReader, SaysWhereAndWhatWasExpected) {
    EXPECT_EQ(failure([] { (void)reader.at("absent"); }), "answer: member 'absent' is missing");
    EXPECT_EQ(failure([] { (void)reader.at("list").elements().at(2).u64(); }),
              "answer.list[2]: expected a number that is not negative");
    EXPECT_EQ(failure([] { (void)reader.at("list").elements().at(1).u64(); }),
              "answer.list[1]: expected a number that is not negative");
    EXPECT_EQ(failure([] { (void)reader.at("name").find("x"); }), "answer.name: expected an object");
    EXPECT_EQ(failure([] { (void)reader.at("name").elements(); }), "answer.name: expected an array");
    EXPECT_EQ(failure([] { (void)reader.boolean_or("name", true); }), "answer.name: expected true or false");
    EXPECT_EQ(failure([] { (void)reader.string_or("flag", ""); }), "answer.flag: expected a string");
}

TEST(ParseJson, RefusesWhatIsNotJson) {
    EXPECT_EQ(parse_json("[1]", "x", ErrorCode::qemu_failed), Json::array({1}));
    EXPECT_EQ(failure([] { (void)parse_json("{", "reply", ErrorCode::qemu_failed); }),
              "reply: not JSON: '{'");
    EXPECT_NE(failure([] { (void)parse_json("\"\xff\"", "reply", ErrorCode::qemu_failed); }), "");
}

TEST(ParseJson, RefusesDeepNesting) {
    const std::string deep = std::string(100'000, '[') + std::string(100'000, ']');
    EXPECT_EQ(failure([&] { (void)parse_json(deep, "reply", ErrorCode::qemu_failed); }),
              "reply: nested deeper than 64 levels");
    EXPECT_NO_THROW((void)parse_json("[[[]]]", "reply", ErrorCode::qemu_failed, 3));
    EXPECT_EQ(failure([] { (void)parse_json(R"({"a": [[{}]]})", "reply", ErrorCode::qemu_failed, 3); }),
              "reply: nested deeper than 3 levels");
    // In a string a bracket is none, and a quote may be one of its characters.
    EXPECT_NO_THROW(
        (void)parse_json(R"([["[[[", "\"[[", "\\", {"{[": 1}], [[]]])", "reply", ErrorCode::qemu_failed, 3));
    EXPECT_EQ(failure([] { (void)parse_json(R"(["\\", [[[]]]])", "reply", ErrorCode::qemu_failed, 3); }),
              "reply: nested deeper than 3 levels");
}

}  // namespace
}  // namespace volchain::json_test
