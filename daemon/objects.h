// SPDX-License-Identifier: MIT
//
// What all objects on the bus have in common: the engine that they show, and how results and options are read and
// written. One class for each interface (manager_object.h, disk_object.h, ...); it serves all objects of its kind, by
// id, and holds nothing of its own.
#pragma once

#include <chrono>
#include <string>
#include <tuple>
#include <vector>

#include "base/text.h"
#include "daemon/paths.h"
#include "storage/snapshots/clone.h"
#include "storage/volumes/map_volume.h"
#include "systemd/options.h"
#include "systemd/vtable.h"

namespace volchain::daemon {

/// (disk, volume), (name, message), ...
using PathPair = std::pair<bus::ObjectPath, bus::ObjectPath>;
using PathText = std::pair<bus::ObjectPath, std::string>;
using TextPair = std::pair<std::string, std::string>;
using Bytes = std::vector<std::uint8_t>;
/// (start, length, kind): a part of a disk
using Extents = std::vector<std::tuple<std::uint64_t, std::uint64_t, std::string>>;

/// A job's result as a{sv}: objects as paths, numbers as t, text as s, lists of text as as, lists of objects as ao, lists
/// of records (list_json()) as aa{sv}.
[[nodiscard]] bus::Dict result_dict(const Json& result);
/// The error of a job, two empty strings where it has none. The name is the full one: "org.volchain1.Error.NoSpace".
[[nodiscard]] TextPair error_pair(const std::optional<Error>& error);

/// An option whose value is one of an enumeration's words.
template <typename E>
[[nodiscard]] std::optional<E> take_word(bus::Options& options, const std::string& name) {
    const auto text = options.take<std::string>(name);
    if (!text) return std::nullopt;
    const auto value = from_word<E>(*text);
    if (!value)
        throw Error(ErrorCode::invalid_argument, "option '{}': {} is not one of {}", name, quote(*text),
                    all_words<E>());
    return value;
}

/// An option that is a list of objects of one kind.
[[nodiscard]] std::optional<std::vector<Uuid>> take_ids(bus::Options& options, const std::string& name,
                                                        storage::ObjectKind kind);
/// An option that is one object.
[[nodiscard]] std::optional<Uuid> take_id(bus::Options& options, const std::string& name,
                                          storage::ObjectKind kind);

/// The options that clones of snapshots and of volumes share: format and all else of the image, speed.
void take_clone_options(bus::Options& options, storage::CloneRequest& request);

/// The options of a new image that they name: format, preallocation, cluster-size, extended-l2, compression.
[[nodiscard]] storage::ImageOptions take_image_options(bus::Options& options, std::uint64_t size);

/// An option that is a time to wait in microseconds: more than nothing, at most an hour.
[[nodiscard]] std::optional<std::chrono::microseconds> take_timeout(bus::Options& options,
                                                                    const std::string& name);

[[nodiscard]] Extents to_extents(const std::vector<qcow2::ChainExtent>& extents);

[[nodiscard]] std::string to_text(const Bytes& bytes);
[[nodiscard]] Bytes to_bytes(const std::string& text);

}  // namespace volchain::daemon
