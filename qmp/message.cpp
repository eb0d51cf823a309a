// SPDX-License-Identifier: MIT
#include "qmp/message.h"

#include <fmt/format.h>

#include "base/text.h"

namespace volchain::qmp {
namespace {

/// QEMU's own limit for what it reads (qobject/json-streamer.c, MAX_NESTING). It is that high because
/// query-block nests the description of each backing file in that of its overlay.
constexpr std::size_t max_depth = 1024;
constexpr std::size_t shown_words = 1000;

Greeting parse_greeting(const JsonReader& greeting) {
    const JsonReader version = greeting.at("version");
    const JsonReader qemu = version.at("qemu");
    return {fmt::format("{}.{}.{}", qemu.at("major").u64(), qemu.at("minor").u64(), qemu.at("micro").u64()),
            version.string_or("package", "")};
}

/// Members are -1 where QEMU could not read its clock.
Timestamp parse_timestamp(const JsonReader& message) {
    const auto timestamp = message.find("timestamp");
    if (!timestamp) return {};
    const std::int64_t seconds = timestamp->at("seconds").i64();
    const std::int64_t microseconds = timestamp->at("microseconds").i64();
    constexpr std::int64_t end_of_time = std::int64_t{1} << 40;
    if (seconds < 0 || seconds > end_of_time || microseconds < 0 || microseconds > 999'999) return {};
    return Timestamp(Microseconds(seconds * 1'000'000 + microseconds));
}

Event parse_event(const JsonReader& message) {
    const auto data = message.find("data");
    if (data && !data->json().is_object()) data->fail("expected an object");
    return {message.at("event").string(), data ? data->json() : Json::object(), parse_timestamp(message)};
}

/// `document` is what `message` reads; the value is taken out of it, large as it may be.
Reply parse_reply(const JsonReader& message, Json& document) {
    Reply reply;
    if (const auto id = message.find("id"); id && id->json().is_number_unsigned()) reply.id = id->u64();
    if (const auto error = message.find("error"))
        reply.refusal = parse_refusal(*error);
    else if (message.json().contains("return"))
        reply.value = std::move(document["return"]);
    else
        message.fail("is neither greeting, event nor answer");
    return reply;
}

ErrorCode code_of(const Refusal& refusal) {
    if (refusal.error_class == "CommandNotFound") return ErrorCode::unsupported;
    if (refusal.error_class == "DeviceNotFound" || refusal.error_class == "DeviceNotActive")
        return ErrorCode::not_found;
    return code_of_words(refusal.description);
}

}  // namespace

Refusal parse_refusal(const JsonReader& error) {
    return {error.string_or("class", "GenericError"), error.string_or("desc", "no reason given")};
}

Message parse_message(std::string_view line) {
    Json document = parse_json(line, "message of QEMU", ErrorCode::unreachable, max_depth);
    const JsonReader message(document, "message of QEMU", ErrorCode::unreachable);
    if (const auto greeting = message.find("QMP")) return parse_greeting(*greeting);
    if (message.find("event")) return parse_event(message);
    return parse_reply(message, document);
}

ErrorCode code_of_words(std::string_view words) noexcept {
    const auto say = [words](std::string_view part) { return words.find(part) != std::string_view::npos; };
    // strerror(3) in the C locale, which QEMU does not leave.
    if (say("No space left on device") || say("Disk quota exceeded")) return ErrorCode::no_space;
    // block/file-posix.c: 'Failed to get "write" lock', 'Failed to get shared "write" lock'.
    if (say("Failed to get ") && say(" lock")) return ErrorCode::in_use;
    return ErrorCode::qemu_failed;
}

CommandError::CommandError(const std::string& command, Refusal refusal, CallTimes times)
    : Error(code_of(refusal), "QEMU refused {}: {}", command, clipped(refusal.description, shown_words)),
      refusal_(std::move(refusal)),
      times_(times) {}

}  // namespace volchain::qmp
