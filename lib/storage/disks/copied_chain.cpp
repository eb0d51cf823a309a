// SPDX-License-Identifier: MIT
#include "storage/disks/copied_chain.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include "base/file.h"
#include "base/text.h"
#include "storage/merges/merge_room.h"

namespace volchain::storage {
namespace {

namespace fs = std::filesystem;

/// As for an import in place.
constexpr std::size_t most_layers = 1000;
constexpr std::size_t piece_bytes = std::size_t{1} << 20;

/// A file beneath one of the directories in which a chain may lie.
struct Whereabouts {
    std::string directory;
    std::string file;
};

std::optional<Whereabouts> beneath(const std::vector<std::string>& directories, const std::string& path) {
    for (const std::string& directory : directories) {
        const fs::path relative = fs::path(path).lexically_relative(directory);
        if (!relative.empty() && *relative.begin() != ".." && relative != ".")
            return Whereabouts{directory, relative.string()};
    }
    return std::nullopt;
}

/// The directory is looked up, links in it are followed, as the caller named it; the file itself must not be one.
Whereabouts where_is(const std::string& path) {
    const fs::path image(path);
    if (image.filename().empty() || image.filename() == "." || image.filename() == "..")
        throw Error(ErrorCode::invalid_argument, "path {} names no file", quote(path));
    std::error_code failure;
    const fs::path directory = fs::canonical(image.parent_path(), failure);
    if (failure) throw system_error(failure.value(), "cannot use " + quote(path));
    return {directory.string(), image.filename().string()};
}

struct stat look_at(int fd, const std::string& path) {
    struct stat status {};
    if (::fstat(fd, &status) < 0) throw system_error(errno, "cannot look at " + quote(path));
    return status;
}

ForeignLayer open_layer(const Whereabouts& place, std::optional<VolumeFormat> format) {
    ForeignLayer layer;
    layer.path = (fs::path(place.directory) / place.file).string();
    layer.facts = inspect_foreign_image(place.directory, place.file, format);
    const UniqueFd directory = open_directory(place.directory);
    layer.image = std::make_shared<qmp::ImageLock>(
        qmp::ImageLock::take_reader(open_beneath(directory.get(), place.file, O_RDONLY), layer.path));
    layer.device = look_at(layer.image->fd(), layer.path).st_dev;
    return layer;
}

Whereabouts next_layer(const std::vector<ForeignLayer>& layers, const std::vector<std::string>& directories) {
    const std::string& below = layers.back().facts.backing->path;
    const bool again = std::any_of(layers.begin(), layers.end(),
                                   [&](const ForeignLayer& layer) { return layer.path == below; });
    if (again || layers.size() == most_layers)
        throw Error(ErrorCode::broken_chain, "the chain below {} {}", quote(layers.front().path),
                    again ? "comes back to itself" : "is longer than 1000 images");
    if (auto place = beneath(directories, below)) return *std::move(place);
    throw Error(
        ErrorCode::unsafe_image,
        "the backing file {} of {} is neither in the directory of the image nor in a pool; put it there",
        quote(below), quote(layers.back().path));
}

std::uint64_t length_of(int fd, const std::string& path) {
    return static_cast<std::uint64_t>(look_at(fd, path).st_size);
}

UniqueFd open_copy(const NewFile& target, int flags) {
    const UniqueFd pool = open_directory(target.pool);
    return open_beneath(pool.get(), target.file, flags);
}

/// Where the next data begins; the end of the file where there is none.
std::uint64_t next_data(int fd, std::uint64_t position, std::uint64_t end) {
    const off_t found = ::lseek(fd, static_cast<off_t>(position), SEEK_DATA);
    if (found >= 0) return static_cast<std::uint64_t>(found);
    return errno == ENXIO ? end : position;  // else the file system does not tell
}

std::uint64_t next_hole(int fd, std::uint64_t position, std::uint64_t end) {
    const off_t found = ::lseek(fd, static_cast<off_t>(position), SEEK_HOLE);
    return found < 0 ? end : static_cast<std::uint64_t>(found);
}

void copy_bytes(const ForeignLayer& layer, int to, std::uint64_t position, std::uint64_t end) {
    std::vector<std::byte> piece(piece_bytes);
    while (position < end) {
        const std::size_t wanted = std::min<std::uint64_t>(end - position, piece.size());
        const std::span<std::byte> part(piece.data(), wanted);
        const std::size_t got = read_at(layer.image->fd(), part, position);
        if (got == 0)
            throw Error(ErrorCode::in_use, "{} has become shorter while it was copied", quote(layer.path));
        write_at(to, part.first(got), position);
        position += got;
    }
}

/// The end of the disk in a raw file is that of its last sector.
std::uint64_t length_of_copy(const ForeignLayer& layer) {
    return raw_disk_size(length_of(layer.image->fd(), layer.path));
}

void set_length(const ForeignLayer& layer, int to, const NewFile& target) {
    if (::ftruncate(to, static_cast<off_t>(length_of_copy(layer))) < 0)
        throw system_error(errno, "cannot set the length of " + quote(target.path()));
}

std::vector<ForeignLayer> open_all(const std::string& path, std::optional<VolumeFormat> format,
                                   const std::vector<std::string>& pools) {
    Whereabouts place = where_is(path);
    std::vector<std::string> directories{place.directory};
    directories.insert(directories.end(), pools.begin(), pools.end());
    std::vector<ForeignLayer> layers;
    layers.push_back(open_layer(place, format));
    while (layers.back().facts.backing) {
        const std::string declared = layers.back().facts.backing->format;
        place = next_layer(layers, directories);
        layers.push_back(open_layer(place, from_word<VolumeFormat>(declared)));
    }
    return layers;
}

}  // namespace

std::vector<ForeignLayer> open_foreign_chain(const std::string& path, std::optional<VolumeFormat> format,
                                             const std::vector<std::string>& pools, uid_t user) {
    const ActingAs acting(UserRights::of(user));
    try {
        return open_all(path, format, pools);
    } catch (const Error& error) {
        // EACCES, see system_error().
        if (error.code() != ErrorCode::read_only) throw;
        throw Error(ErrorCode::access_denied, "{}: it is opened with the rights of user {}", error.what(),
                    user);
    }
}

RoomForCopy room_for_copy(const std::vector<ForeignLayer>& layers, const std::string& pool, bool reflinks) {
    const UniqueFd directory = open_directory(pool);
    const auto device = look_at(directory.get(), pool).st_dev;
    RoomForCopy room;
    for (const ForeignLayer& layer : layers)
        if (!reflinks || layer.device != device) room.needed += layer.facts.allocated;
    room.there = room_beside(pool + "/image");
    return room;
}

bool start_copy(const ForeignLayer& layer, const NewFile& target, const Settings& settings) {
    make_image_file(target, settings);
    const UniqueFd to = open_copy(target, O_WRONLY);
    if (::ioctl(to.get(), FICLONE, layer.image->fd()) < 0) {
        if (errno == EOPNOTSUPP || errno == EXDEV || errno == EINVAL || errno == ENOTTY) return false;
        throw system_error(errno, fmt::format("cannot make {} a reflink", quote(target.path())));
    }
    set_length(layer, to.get(), target);
    return true;
}

std::optional<std::uint64_t> copy_piece(const ForeignLayer& layer, const NewFile& target,
                                        std::uint64_t position, std::uint64_t length) {
    const int from = layer.image->fd();
    const UniqueFd to = open_copy(target, O_WRONLY);
    const std::uint64_t end = length_of(from, layer.path);
    position = next_data(from, position, end);
    if (position >= end) {
        set_length(layer, to.get(), target);
        return std::nullopt;
    }
    const std::uint64_t stop = std::min({position + length, next_hole(from, position, end), end});
    copy_bytes(layer, to.get(), position, stop);
    return stop;
}

void check_copy(const ForeignLayer& layer, const NewFile& target) {
    const VolumeFacts copy = inspect_image(target.pool, target.file, format_of(layer.facts));
    if (copy.state != VolumeState::ok)
        throw Error(ErrorCode::corrupt_image, "the copy of {}: {}", quote(layer.path), copy.problem);
    const VolumeFacts& judged = layer.facts;
    bool same = copy.size == judged.size && copy.backing.has_value() == judged.backing.has_value();
    if (same && copy.backing)
        same = copy.backing->name == judged.backing->name && copy.backing->format == judged.backing->format;
    if (same && copy.header)
        same = !copy.header->features.external_data_file && !copy.header->features.corrupt &&
               copy.header->encryption == qcow2::Encryption::none;
    if (!same)
        throw Error(ErrorCode::in_use,
                    "{} has been changed while it was copied; import it again when nobody does",
                    quote(layer.path));
}

}  // namespace volchain::storage
