// SPDX-License-Identifier: MIT
#include "qmp/message.h"

#include <gtest/gtest.h>

namespace volchain::qmp::message_test {
namespace {

TEST(Message, Greeting) {
    const Message message =
        parse_message(R"({"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7},
        "package": "Debian 1:7.2"}, "capabilities": ["oob"]}})");
    EXPECT_EQ(std::get<Greeting>(message).version, "7.2.22");
    EXPECT_EQ(std::get<Greeting>(message).package, "Debian 1:7.2");
}

TEST(Message, Event) {
    const Message message =
        parse_message(R"({"event": "STOP", "timestamp": {"seconds": 3, "microseconds": 7}})");
    const auto& event = std::get<Event>(message);
    EXPECT_EQ(event.name, "STOP");
    EXPECT_EQ(event.data, Json::object());
    EXPECT_EQ(to_usec(event.time), 3'000'007u);
}

TEST(Message, EventOfAQemuWithoutAClock) {
    const Message message = parse_message(
        R"({"event": "X", "data": {"a": 1}, "timestamp": {"seconds": -1, "microseconds": -1}})");
    EXPECT_EQ(std::get<Event>(message).read().at("a").u64(), 1u);
    EXPECT_EQ(to_usec(std::get<Event>(message).time), 0u);
}

TEST(Message, Answers) {
    const Message good = parse_message(R"({"return": null, "id": 5})");
    EXPECT_EQ(std::get<Reply>(good).id, 5u);
    EXPECT_TRUE(std::get<Reply>(good).value.is_null());
    const Message bad = parse_message(R"({"error": {"class": "GenericError", "desc": "no"}, "id": "x"})");
    EXPECT_EQ(std::get<Reply>(bad).id, std::nullopt);
    EXPECT_EQ(std::get<Reply>(bad).refusal.value().description, "no");
}

TEST(Message, WhatIsNone) {
    for (const char* line :
         {"", "{", "[]", "7", "\"x\"", "{}", R"({"event": 7})", R"({"QMP": {}})", R"({"error": "x"})",
          R"({"event": "X", "data": []})", "{\"return\": \"\xff\"}", R"({"event": "X", "timestamp": 7})"}) {
        try {
            (void)parse_message(line);
            ADD_FAILURE() << line;
        } catch (const Error& error) {
            EXPECT_EQ(error.code(), ErrorCode::unreachable) << line;
        }
    }
}

TEST(Message, DeepestNesting) {
    const auto nested = [](std::size_t depth) {
        return "{\"return\": " + std::string(depth, '[') + std::string(depth, ']') + "}";
    };
    EXPECT_NO_THROW((void)parse_message(nested(1000)));
    EXPECT_THROW((void)parse_message(nested(100'000)), Error);
}

TEST(CommandError, CodeFollowsFromClassAndWords) {
    const auto code = [](const char* error_class, const char* words) {
        return CommandError("x", {error_class, words}, {}).code();
    };
    EXPECT_EQ(code("CommandNotFound", "The command x has not been found"), ErrorCode::unsupported);
    EXPECT_EQ(code("DeviceNotFound", "Device 'x' not found"), ErrorCode::not_found);
    EXPECT_EQ(code("DeviceNotActive", "Block job 'x' not found"), ErrorCode::not_found);
    EXPECT_EQ(code("GenericError", "Could not resize: No space left on device"), ErrorCode::no_space);
    EXPECT_EQ(code("GenericError", "Failed to get shared \"write\" lock"), ErrorCode::in_use);
    EXPECT_EQ(code("GenericError", "Parameter 'x' is missing"), ErrorCode::qemu_failed);
}

TEST(CommandError, KeepsQemusWords) {
    const CommandError error("block-commit", {"DeviceNotFound", "Cannot find it"}, {});
    EXPECT_STREQ(error.what(), "QEMU refused block-commit: Cannot find it");
    EXPECT_EQ(error.error_class(), "DeviceNotFound");
    EXPECT_EQ(error.description(), "Cannot find it");
}

}  // namespace
}  // namespace volchain::qmp::message_test
