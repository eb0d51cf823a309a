// SPDX-License-Identifier: MIT
#include "qcow2/raw_layer_map.h"

#include <unistd.h>

#include <cerrno>
#include <limits>
#include <optional>

#include "base/error.h"
#include "qcow2/image_source.h"
#include "qcow2/limits.h"

namespace volchain::qcow2 {
namespace {

/// A file system takes space by smaller blocks, but QEMU 7.2 commits into a raw file by whole pieces of
/// this size (bdrv_get_default_bitmap_granularity()).
constexpr std::uint64_t raw_piece_bytes = 64U << 10;

constexpr std::uint64_t whole_sectors(std::uint64_t bytes) {
    return divide_up(bytes, sector_bytes) * sector_bytes;
}

/// lseek(2) with SEEK_DATA or SEEK_HOLE; none where there is no more of it.
std::optional<std::uint64_t> seek(int fd, std::uint64_t offset, int whence) {
    const off_t found = ::lseek(fd, static_cast<off_t>(offset), whence);
    if (found >= 0) return static_cast<std::uint64_t>(found);
    if (errno == ENXIO) return std::nullopt;
    // Holes are not known there, or not to this file system: data up to the end.
    if (errno == EINVAL || errno == EOPNOTSUPP)
        return whence == SEEK_DATA ? offset : std::numeric_limits<std::uint64_t>::max() - sector_bytes;
    throw system_error(errno, "cannot find the image's holes");
}

}  // namespace

RawLayerMap::RawLayerMap(int fd) : LayerMap(whole_sectors(FileSource(fd).size()), raw_piece_bytes), fd_(fd) {}

LayerExtent RawLayerMap::piece(std::uint64_t offset) {
    const std::uint64_t rest = virtual_size() - offset;
    const auto data = seek(fd_, offset, SEEK_DATA);
    if (!data) return {offset, rest, LayerKind::zero, false};
    if (*data > offset) return {offset, *data - offset, LayerKind::zero, false};
    // A hole here now: it was made since, as it was when the file has become shorter (none).
    const auto hole = seek(fd_, offset, SEEK_HOLE);
    if (!hole) return {offset, rest, LayerKind::zero, false};
    if (*hole <= offset) return {offset, sector_bytes, LayerKind::zero, false};
    // The file may end within a sector, which is then filled up with zeroes.
    return {offset, whole_sectors(*hole) - offset, LayerKind::data, true};
}

}  // namespace volchain::qcow2
