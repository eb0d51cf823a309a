// SPDX-License-Identifier: MIT
//
// JsonReader: reads foreign JSON (QEMU's and the guest agent's answers, manifests, stored plans) member by
// member. Every failed expectation names the document, the path in it and what was expected, and is thrown
// with the code that the document's reader was given. It refers to the document and must not outlive it.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace volchain {

using Json = nlohmann::json;

}  // namespace volchain

// Instantiated in json.cpp, once.
extern template class nlohmann::basic_json<>;

namespace volchain {

class JsonReader {
  public:
    /// `origin`: what the document is, for messages ("answer of query-status").
    JsonReader(const Json& document, std::string origin, ErrorCode code)
        : value_(&document),
          document_(std::make_shared<const Document>(&document, std::move(origin), code)) {}

    /// The member of an object; it must be there.
    [[nodiscard]] JsonReader at(std::string_view member) const;
    /// The member of an object, none where it is absent or null.
    [[nodiscard]] std::optional<JsonReader> find(std::string_view member) const;
    /// The elements of an array.
    [[nodiscard]] std::vector<JsonReader> elements() const;

    [[nodiscard]] const std::string& string() const;
    [[nodiscard]] bool boolean() const;
    [[nodiscard]] std::uint64_t u64() const;
    [[nodiscard]] std::int64_t i64() const;

    [[nodiscard]] std::string string_or(std::string_view member, std::string_view otherwise) const;
    [[nodiscard]] bool boolean_or(std::string_view member, bool otherwise) const;
    [[nodiscard]] std::uint64_t u64_or(std::string_view member, std::uint64_t otherwise) const;

    [[nodiscard]] const Json& json() const noexcept { return *value_; }
    [[noreturn]] void fail(std::string_view expectation) const;

  private:
    struct Document {
        Document(const Json* json, std::string name, ErrorCode error)
            : root(json), origin(std::move(name)), code(error) {}
        const Json* root;
        std::string origin;
        ErrorCode code;
    };
    JsonReader(const Json& value, std::shared_ptr<const Document> document)
        : value_(&value), document_(std::move(document)) {}
    /// Looked for when there is something to say of it: made on the way, the paths take as long as all else of reading a
    /// QEMU's schema.
    [[nodiscard]] std::string path() const;

    const Json* value_;
    std::shared_ptr<const Document> document_;
};

/// Parses text that comes from outside: no exceptions but Error, and no deeper nesting than `max_depth`, so
/// that nothing that walks the result can be led too deep.
[[nodiscard]] Json parse_json(std::string_view text, std::string_view origin, ErrorCode code,
                              std::size_t max_depth = 64);

}  // namespace volchain
