// SPDX-License-Identifier: MIT
//
// What a pool's directory is like: there or not, writable, how much room, whether its file system shares
// blocks between files. Blocking calls for worker threads; the Engine keeps the last answer.
#pragma once

#include <cstdint>
#include <string>

#include "storage/records/records.h"

namespace volchain::storage {

enum class PoolState { ok, missing, read_only };
constexpr auto enum_names(PoolState) {
    return std::to_array<EnumName<PoolState>>(
        {{PoolState::ok, "ok"}, {PoolState::missing, "missing"}, {PoolState::read_only, "read-only"}});
}

struct PoolStatus {
    PoolState state = PoolState::missing;
    std::string filesystem;  ///< "ext4", "xfs", "nfs", ... or the magic number in hex
    /// Whether a look at a file in it cannot hang for another machine's sake.
    bool local = false;
    std::uint64_t capacity = 0;
    std::uint64_t free = 0;  ///< for unprivileged writers
    bool reflink = false;

    friend bool operator==(const PoolStatus&, const PoolStatus&) = default;
};

/// Looks at the directory. `reflink` is only tried out (with two unnamed files) where `probe_reflink`; else
/// false.
[[nodiscard]] PoolStatus inspect_pool(const std::string& path, bool probe_reflink);

/// The path that a new pool will have: absolute, links resolved, a directory. With `create` it is made first
/// (mode 0711; its parent must exist). Throws InvalidArgument or NotFound.
[[nodiscard]] std::string resolve_pool_path(const std::string& path, bool create);

}  // namespace volchain::storage
