// SPDX-License-Identifier: MIT
#include "base/json.h"

#include "base/text.h"

template class nlohmann::basic_json<>;

namespace volchain {
namespace {

/// Whether arrays and objects are nested deeper than that, in a text that is JSON; of another one it says nothing.
bool is_deeper(std::string_view text, std::size_t most) noexcept {
    std::size_t depth = 0;
    bool quoted = false;
    for (std::size_t at = 0; at < text.size(); ++at) {
        const char c = text[at];
        if (quoted) {
            if (c == '\\') ++at;
            quoted = c != '"';
        } else if (c == '"') {
            quoted = true;
        } else if (c == '[' || c == '{') {
            if (++depth > most) return true;
        } else if ((c == ']' || c == '}') && depth > 0) {
            --depth;
        }
    }
    return false;
}

/// The path from one value to another that is in it: `.member` and `[number]`; none where it is not there.
std::optional<std::string> path_between(const Json& from, const Json* to) {
    if (&from == to) return std::string();
    if (from.is_object()) {
        for (const auto& [name, member] : from.items())
            if (const auto rest = path_between(member, to)) return fmt::format(".{}{}", name, *rest);
    } else if (from.is_array()) {
        for (std::size_t i = 0; i < from.size(); ++i)
            if (const auto rest = path_between(from[i], to)) return fmt::format("[{}]{}", i, *rest);
    }
    return std::nullopt;
}

}  // namespace

std::string JsonReader::path() const {
    return document_->origin + path_between(*document_->root, value_).value_or("");
}

void JsonReader::fail(std::string_view expectation) const {
    throw Error(document_->code, "{}: {}", path(), expectation);
}

JsonReader JsonReader::at(std::string_view member) const {
    if (auto found = find(member)) return *std::move(found);
    fail(fmt::format("member {} is missing", quote(member)));
}

std::optional<JsonReader> JsonReader::find(std::string_view member) const {
    if (!value_->is_object()) fail("expected an object");
    const auto found = value_->find(member);
    if (found == value_->end() || found->is_null()) return std::nullopt;
    return JsonReader(*found, document_);
}

std::vector<JsonReader> JsonReader::elements() const {
    if (!value_->is_array()) fail("expected an array");
    std::vector<JsonReader> all;
    all.reserve(value_->size());
    for (const Json& element : *value_) all.push_back(JsonReader(element, document_));
    return all;
}

const std::string& JsonReader::string() const {
    const auto* text = value_->get_ptr<const std::string*>();
    if (text == nullptr) fail("expected a string");
    return *text;
}

bool JsonReader::boolean() const {
    const auto* flag = value_->get_ptr<const bool*>();
    if (flag == nullptr) fail("expected true or false");
    return *flag;
}

std::uint64_t JsonReader::u64() const {
    if (!value_->is_number_unsigned()) fail("expected a number that is not negative");
    return *value_->get_ptr<const std::uint64_t*>();
}

std::int64_t JsonReader::i64() const {
    if (!value_->is_number_integer()) fail("expected a whole number");
    return value_->get<std::int64_t>();
}

std::string JsonReader::string_or(std::string_view member, std::string_view otherwise) const {
    const auto found = find(member);
    return found ? found->string() : std::string(otherwise);
}

bool JsonReader::boolean_or(std::string_view member, bool otherwise) const {
    const auto found = find(member);
    return found ? found->boolean() : otherwise;
}

std::uint64_t JsonReader::u64_or(std::string_view member, std::uint64_t otherwise) const {
    const auto found = find(member);
    return found ? found->u64() : otherwise;
}

Json parse_json(std::string_view text, std::string_view origin, ErrorCode code, std::size_t max_depth) {
    // Looked at beforehand: with a callback the library's parser takes three times as long, 12 ms for a QEMU's schema (200 KiB).
    if (is_deeper(text, max_depth)) throw Error(code, "{}: nested deeper than {} levels", origin, max_depth);
    Json document = Json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (document.is_discarded()) throw Error(code, "{}: not JSON: {}", origin, quote(text));
    return document;
}

}  // namespace volchain
