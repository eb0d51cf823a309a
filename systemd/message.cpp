// SPDX-License-Identifier: MIT
#include "systemd/message.h"

#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "base/text.h"

namespace volchain::bus {
namespace {

std::string text_or_empty(const char* text) {
    return text == nullptr ? std::string() : std::string(text);
}

void check_append(int result) {
    if (result < 0) throw system_error(-result, "cannot compose a D-Bus message");
}

/// What a message is called in the error about it.
std::string label(sd_bus_message* message) {
    const char* member = sd_bus_message_get_member(message);
    return member == nullptr ? "D-Bus reply" : fmt::format("D-Bus message {}", member);
}

/// The length of the UTF-8 character that `text` begins with; 0 where it does not begin with one that may be
/// sent.
std::size_t character_length(std::string_view text) {
    for (std::size_t length = 1; length <= 4 && length <= text.size(); ++length)
        if (valid_utf8(text.substr(0, length))) return text[0] == '\0' ? 0 : length;
    return 0;
}

}  // namespace

std::string wire_text(std::string_view text) {
    if (valid_utf8(text) && text.find('\0') == std::string_view::npos) return std::string(text);
    std::string clean;
    while (!text.empty()) {
        const std::size_t length = character_length(text);
        clean += length == 0 ? std::string_view("\xEF\xBF\xBD") : text.substr(0, length);
        text.remove_prefix(length == 0 ? 1 : length);
    }
    return clean;
}

std::string Message::sender() const {
    return text_or_empty(sd_bus_message_get_sender(get()));
}
std::string Message::destination() const {
    return text_or_empty(sd_bus_message_get_destination(get()));
}
std::string Message::path() const {
    return text_or_empty(sd_bus_message_get_path(get()));
}
std::string Message::interface() const {
    return text_or_empty(sd_bus_message_get_interface(get()));
}
std::string Message::member() const {
    return text_or_empty(sd_bus_message_get_member(get()));
}
std::string Message::signature() const {
    return text_or_empty(sd_bus_message_get_signature(get(), 1));
}
bool Message::is_error() const noexcept {
    return sd_bus_message_is_method_error(get(), nullptr) > 0;
}
std::string Message::name() const {
    return interface() + "." + member();
}

void Message::put(char type, const void* value) {
    const bool text = type == 's' || type == 'o' || type == 'g';
    count(sizeof(std::uint64_t) + (text ? std::strlen(static_cast<const char*>(value)) : 0));
    check_append(sd_bus_message_append_basic(get(), type, value));
}

void Message::put_bytes(const std::vector<std::uint8_t>& bytes) {
    count(bytes.size());
    check_append(sd_bus_message_append_array(get(), 'y', bytes.data(), bytes.size()));
}

void Message::put_text(std::string_view text) {
    put('s', wire_text(text).c_str());
}

void Message::count(std::size_t bytes) {
    body_bytes_ += bytes;
    if (body_bytes_ > max_body_bytes)
        throw Error(ErrorCode::unsupported, "the D-Bus message {} would be larger than {} MiB: ask for less",
                    name(), max_body_bytes >> 20);
}

void Message::open(char kind, const char* contents) {
    count(sizeof(std::uint64_t));  // lengths, signatures, padding
    check_append(sd_bus_message_open_container(get(), kind, contents));
}

void Message::close() {
    check_append(sd_bus_message_close_container(get()));
}

Reader::Reader(const Message& message) : message_(message.get()) {
    if (sd_bus_message_rewind(message_, 1) < 0)
        throw Error(ErrorCode::invalid_argument, "{} cannot be read", label(message_));
    std::uint8_t type = 0;
    if (sd_bus_message_get_type(message_, &type) >= 0 && type == SD_BUS_MESSAGE_METHOD_RETURN)
        values_left_ = max_values_of_reply;
}

void Reader::check(int result, char type) const {
    if (result > 0) return;
    if (result == -ENOMEM) throw system_error(ENOMEM, "cannot read a D-Bus message");
    const std::string expected =
        type == 0 ? "well formed content" : fmt::format("a value of type '{}'", type);
    throw Error(ErrorCode::invalid_argument, "{}: expected {}", label(message_), expected);
}

Reader::Next Reader::peek() {
    Next next;
    const char* contents = nullptr;
    const int result = sd_bus_message_peek_type(message_, &next.type, &contents);
    if (result < 0) check(result, 0);
    if (result == 0) next.type = 0;
    if (contents != nullptr) next.contents = contents;
    return next;
}

bool Reader::at_end() {
    const int result = sd_bus_message_at_end(message_, 0);
    if (result < 0) check(result, 0);
    return result > 0;
}

void Reader::get(char type, void* value) {
    check(sd_bus_message_read_basic(message_, type, value), type);
}

std::vector<std::uint8_t> Reader::get_bytes() {
    const void* data = nullptr;
    std::size_t size = 0;
    check(sd_bus_message_read_array(message_, 'y', &data, &size), 'a');
    const auto* first = static_cast<const std::uint8_t*>(data);
    return size == 0 ? std::vector<std::uint8_t>() : std::vector<std::uint8_t>(first, first + size);
}

bool Reader::enter(char kind, const char* contents) {
    const int result = sd_bus_message_enter_container(message_, kind, contents);
    if (result == 0) return false;
    check(result, kind);
    return true;
}

void Reader::exit() {
    if (const int result = sd_bus_message_exit_container(message_); result < 0) check(result, 0);
}

void Reader::enter_value() {
    if (++depth_ > max_depth)
        throw Error(ErrorCode::invalid_argument, "{}: nested deeper than {} levels", label(message_),
                    max_depth);
    if (values_left_-- == 0) throw Error(ErrorCode::invalid_argument, "{}: too many values", label(message_));
}

void Reader::expect(std::string_view signature) const {
    const std::string found = text_or_empty(sd_bus_message_get_signature(message_, 1));
    if (found != signature)
        throw Error(ErrorCode::invalid_argument, "{}: the arguments are of type '{}', expected '{}'",
                    label(message_), found, signature);
}

}  // namespace volchain::bus
