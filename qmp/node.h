// SPDX-License-Identifier: MIT
//
// Arguments of blockdev-add (BlockdevOptions), and NodeOptions: those of them that decide how the host's
// storage is used and that an overlay takes over from the layer it covers. Which files and which names is the
// caller's choice.
#pragma once

#include <array>
#include <string>
#include <string_view>

#include "base/enum_names.h"
#include "base/json.h"

namespace volchain::qmp {

/// BlockdevAioOptions. QEMU's default is threads; native needs cache.direct.
enum class Aio { threads, native, io_uring };
constexpr auto enum_names(Aio) {
    return std::to_array<EnumName<Aio>>(
        {{Aio::threads, "threads"}, {Aio::native, "native"}, {Aio::io_uring, "io_uring"}});
}

/// BlockdevDetectZeroesOptions.
enum class DetectZeroes { off, on, unmap };
constexpr auto enum_names(DetectZeroes) {
    return std::to_array<EnumName<DetectZeroes>>(
        {{DetectZeroes::off, "off"}, {DetectZeroes::on, "on"}, {DetectZeroes::unmap, "unmap"}});
}

/// QEMU's defaults, unless set.
struct NodeOptions {
    bool cache_direct = false;    ///< around the host's page cache (O_DIRECT)
    bool cache_no_flush = false;  ///< flushes are ignored
    Aio aio = Aio::threads;
    bool discard = false;  ///< what the guest discards is freed ("unmap")
    DetectZeroes detect_zeroes = DetectZeroes::off;

    friend bool operator==(const NodeOptions&, const NodeOptions&) = default;

    /// For the record, and back; throws InvalidArgument where that is damaged.
    [[nodiscard]] Json json() const;
    [[nodiscard]] static NodeOptions parse(const JsonReader& record);
};

enum class Access {
    read_write,
    read_only,
    /// For the file node beneath a read-only format node of a chain: opened read-only, but a commit into it
    /// can make it writable ("auto-read-only").
    automatic,
    /// Read-only, while others may write to it: without QEMU's locks ("force-share"). What is read from it then means nothing.
    shared,
};

// What is QEMU's default is left out: a monitor reads its socket byte by byte (monitor_can_read() in
// monitor/monitor.c), at 4 to 5 us each, so that the length of a command is much of its time. An inline file
// node takes access and cache from the format node around it, which is made with the same ones.

/// A node of driver "file", with QEMU's image locks as they are by default.
[[nodiscard]] Json file_node(std::string_view name, std::string_view path, Access access,
                             const NodeOptions& options);
/// A node of driver `format` over a file: a file node's name, or a file_node() that becomes part of this one.
[[nodiscard]] Json format_node(std::string_view name, std::string_view format, Json file, Access access,
                               const NodeOptions& options);
/// The format node with that node as its backing file, whatever its header says.
[[nodiscard]] Json with_backing(Json node, std::string_view backing);
/// The format node without a backing file, whatever its header says: for an overlay that blockdev-snapshot
/// will put over a node (QEMU would open the backing file a second time, and fail at its lock), and for a
/// layer looked at alone.
[[nodiscard]] Json without_backing(Json node);

}  // namespace volchain::qmp
