// SPDX-License-Identifier: MIT
#include "storage/merges/merge_room.h"

#include <sys/statvfs.h>

#include <cerrno>
#include <filesystem>

#include "base/text.h"
#include "qcow2/layer_cost.h"

namespace volchain::storage {
namespace {

/// For L2 and refcount entries of new clusters (10 bytes for each of 64 KiB), and for the bitmaps.
constexpr std::uint64_t tables_share = 1024;

std::uint64_t room_for(const LayerFile& source, const LayerFile& target, bool zeroes) {
    OpenLayer from(source);
    OpenLayer to(target);
    try {
        const qcow2::MissingBytes missing = qcow2::bytes_missing(from.map(), to.map());
        return missing.data + (zeroes ? missing.zero : 0);
    } catch (const Error& error) {
        if (error.code() != ErrorCode::corrupt_image) throw;
        return from.allocated();  // a guest was just changing a table
    }
}

}  // namespace

std::uint64_t room_needed(const std::vector<LayerFile>& sources, const LayerFile& target, bool zeroes) {
    std::uint64_t needed = 0;
    for (const LayerFile& source : sources) needed += room_for(source, target, zeroes);
    return needed + needed / tables_share;
}

std::uint64_t room_beside(const std::string& path) {
    struct statvfs status {};
    const std::string directory = std::filesystem::path(path).parent_path().string();
    if (::statvfs(directory.c_str(), &status) < 0)
        throw system_error(errno, "cannot look at the file system of " + quote(directory));
    return std::uint64_t{status.f_bavail} * status.f_frsize;
}

}  // namespace volchain::storage
