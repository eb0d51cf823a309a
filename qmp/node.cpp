// SPDX-License-Identifier: MIT
#include "qmp/node.h"

#include "base/text.h"

namespace volchain::qmp {
namespace {

template <typename E>
E word_at(const JsonReader& record, std::string_view member, E otherwise) {
    const auto found = record.find(member);
    if (!found) return otherwise;
    const auto value = from_word<E>(found->string());
    if (!value) found->fail(fmt::format("{} is not one of {}", quote(found->string()), all_words<E>()));
    return *value;
}

void set_access(Json& node, Access access) {
    if (access != Access::read_write) node["read-only"] = access != Access::automatic;
    if (access == Access::automatic) node["auto-read-only"] = true;
    if (access == Access::shared) node["force-share"] = true;
}

void set_shared(Json& node, const NodeOptions& options) {
    if (options.cache_direct) node["cache"]["direct"] = true;
    if (options.cache_no_flush) node["cache"]["no-flush"] = true;
    // Always: the default of a file node within a format node is another one than that of a file node alone.
    node["discard"] = options.discard ? "unmap" : "ignore";
}

}  // namespace

Json NodeOptions::json() const {
    Json record;
    record["cache-direct"] = cache_direct;
    record["cache-no-flush"] = cache_no_flush;
    record["aio"] = word(aio);
    record["discard"] = discard;
    record["detect-zeroes"] = word(detect_zeroes);
    return record;
}

NodeOptions NodeOptions::parse(const JsonReader& record) {
    NodeOptions options;
    options.cache_direct = record.boolean_or("cache-direct", options.cache_direct);
    options.cache_no_flush = record.boolean_or("cache-no-flush", options.cache_no_flush);
    options.aio = word_at(record, "aio", options.aio);
    options.discard = record.boolean_or("discard", options.discard);
    options.detect_zeroes = word_at(record, "detect-zeroes", options.detect_zeroes);
    return options;
}

Json file_node(std::string_view name, std::string_view path, Access access, const NodeOptions& options) {
    Json node;
    node["driver"] = "file";
    node["node-name"] = name;
    node["filename"] = path;
    if (options.aio != Aio::threads) node["aio"] = word(options.aio);
    set_access(node, access);
    set_shared(node, options);
    return node;
}

Json format_node(std::string_view name, std::string_view format, Json file, Access access,
                 const NodeOptions& options) {
    Json node;
    node["driver"] = format;
    node["node-name"] = name;
    node["file"] = std::move(file);
    set_access(node, access);
    set_shared(node, options);
    // "Zeroes become discards" is refused where discards are ignored (bdrv_parse_detect_zeroes() in block.c).
    const bool unmaps = options.detect_zeroes == DetectZeroes::unmap && !options.discard;
    const DetectZeroes detect = unmaps ? DetectZeroes::on : options.detect_zeroes;
    if (detect != DetectZeroes::off) node["detect-zeroes"] = word(detect);
    return node;
}

Json with_backing(Json node, std::string_view backing) {
    node["backing"] = backing;
    return node;
}

Json without_backing(Json node) {
    node["backing"] = nullptr;
    return node;
}

}  // namespace volchain::qmp
