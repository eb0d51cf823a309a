// SPDX-License-Identifier: MIT
#include "daemon/objects.h"

#include "systemd/bus_error.h"

namespace volchain::daemon {
namespace {

using storage::ObjectKind;

bus::ObjectPath path_of(const Json& object) {
    const JsonReader reader(object, "job result", ErrorCode::internal);
    const auto kind = from_word<ObjectKind>(reader.at("kind").string());
    const auto id = Uuid::parse(reader.at("id").string());
    if (!kind || !id) reader.fail("an object");
    return object_path(*kind, *id);
}

bus::Variant variant_of(const Json& value) {
    if (value.is_object() && value.contains("records")) {
        std::vector<bus::Dict> records;
        for (const Json& record : value["records"]) records.push_back(result_dict(record));
        return records;
    }
    if (value.is_object()) return path_of(value);
    if (value.is_array() && !value.empty() && value.front().is_object()) {
        std::vector<bus::ObjectPath> paths;
        for (const Json& item : value) paths.push_back(path_of(item));
        return paths;
    }
    if (value.is_array()) {
        std::vector<std::string> texts;
        for (const Json& item : value) texts.push_back(item.get<std::string>());
        return texts;
    }
    if (value.is_boolean()) return value.get<bool>();
    if (value.is_number()) return value.get<std::uint64_t>();
    return value.get<std::string>();
}

}  // namespace

bus::Dict result_dict(const Json& result) {
    bus::Dict dict;
    for (const auto& [name, value] : result.items()) dict.emplace(name, variant_of(value));
    return dict;
}

TextPair error_pair(const std::optional<Error>& error) {
    if (!error) return {};
    return {std::string(bus::error_prefix) + std::string(name(error->code())), error->what()};
}

std::optional<std::vector<Uuid>> take_ids(bus::Options& options, const std::string& name, ObjectKind kind) {
    const auto paths = options.take<std::vector<bus::ObjectPath>>(name);
    if (!paths) return std::nullopt;
    std::vector<Uuid> ids;
    for (const bus::ObjectPath& path : *paths) ids.push_back(id_in(path, kind, name));
    return ids;
}

std::optional<Uuid> take_id(bus::Options& options, const std::string& name, ObjectKind kind) {
    const auto path = options.take<bus::ObjectPath>(name);
    return path ? std::optional(id_in(*path, kind, name)) : std::nullopt;
}

std::optional<std::chrono::microseconds> take_timeout(bus::Options& options, const std::string& name) {
    const auto usec = options.take<std::uint64_t>(name);
    if (!usec) return std::nullopt;
    constexpr std::chrono::microseconds longest = std::chrono::hours(1);
    if (*usec == 0 || *usec > static_cast<std::uint64_t>(longest.count()))
        throw Error(ErrorCode::invalid_argument, "option '{}': {} is not from 1 to {}, an hour", name, *usec,
                    longest.count());
    return std::chrono::microseconds(*usec);
}

storage::ImageOptions take_image_options(bus::Options& options, std::uint64_t size) {
    storage::ImageOptions image(size);
    image.format = take_word<storage::VolumeFormat>(options, "format").value_or(image.format);
    image.preallocation =
        take_word<storage::Preallocation>(options, "preallocation").value_or(image.preallocation);
    image.cluster_size = options.take<std::uint64_t>("cluster-size");
    image.extended_l2 = options.take<bool>("extended-l2", false);
    image.compression = options.take<std::string>("compression");
    return image;
}

void take_clone_options(bus::Options& options, storage::CloneRequest& request) {
    request.format = take_word<storage::VolumeFormat>(options, "format");
    request.image = take_image_options(options, 0);
    request.speed = options.take<std::uint64_t>("speed", 0);
}

Extents to_extents(const std::vector<qcow2::ChainExtent>& extents) {
    Extents all;
    all.reserve(extents.size());
    for (const qcow2::ChainExtent& extent : extents)
        all.emplace_back(extent.offset, extent.length, storage::kind_word(extent.kind));
    return all;
}

std::string to_text(const Bytes& bytes) {
    return {bytes.begin(), bytes.end()};
}

Bytes to_bytes(const std::string& text) {
    return {text.begin(), text.end()};
}

}  // namespace volchain::daemon
