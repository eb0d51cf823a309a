// SPDX-License-Identifier: MIT
#include "storage/images/overlay_file.h"

#include <array>
#include <cerrno>
#include <filesystem>
#include <optional>
#include <vector>

#include "base/file.h"
#include "base/text.h"
#include "qcow2/allocation.h"
#include "qcow2/empty_image.h"
#include "qmp/image_lock.h"
#include "storage/images/file_access.h"
#include "storage/images/image.h"

namespace volchain::storage {
namespace {

namespace fs = std::filesystem;

/// The parent's name as the overlay's header has it: both are in one directory. "./" keeps QEMU from taking a
/// colon for the end of a protocol's name.
std::string backing_name(const std::string& parent) {
    const std::string name = fs::path(parent).filename().string();
    return name.find(':') == std::string::npos ? name : "./" + name;
}

qcow2::EmptyImageOptions options_for(const OverlayFile& overlay, const qcow2::ImageSource& parent) {
    if (overlay.parent_format == VolumeFormat::raw) {
        qcow2::EmptyImageOptions options(raw_disk_size(parent.size()));
        options.on(backing_name(overlay.parent), "raw");
        if (overlay.size != 0) options.virtual_size = overlay.size;
        return options;
    }
    const qcow2::Header header = qcow2::read_header(parent);
    qcow2::EmptyImageOptions options(header.virtual_size);
    options.cluster_size = header.cluster_size();
    options.extended_l2 = header.features.extended_l2;
    options.compression = header.compression;
    options.lazy_refcounts = header.features.lazy_refcounts;
    options.refcount_bits = header.refcount_bits();
    options.on(backing_name(overlay.parent), "qcow2");
    if (overlay.size != 0) options.virtual_size = overlay.size;
    return options;
}

/// What a new, empty file needs to become the overlay, on the medium when this returns.
void fill(const OverlayFile& overlay, int pool, int parent, int fd, const qcow2::EmptyImage& image) {
    for (const qcow2::Extent& extent : image.extents) write_at(fd, extent.bytes, extent.offset);
    if (::ftruncate(fd, static_cast<off_t>(image.length)) < 0)
        throw system_error(errno, "cannot set its length");
    copy_access(parent, fd);
    sync(fd, quote(overlay.file));
    const std::string directory = fs::path(overlay.file).parent_path().string();
    const UniqueFd entries = open_beneath(pool, directory.empty() ? "." : directory, O_RDONLY | O_DIRECTORY);
    sync(entries.get(), "the directory of " + quote(overlay.file));
}

/// None where it is gone, which its parent beside it proves.
UniqueFd open_if_there(int pool, const OverlayFile& overlay) {
    try {
        return open_beneath(pool, overlay.file, O_RDONLY);
    } catch (const Error& error) {
        if (error.code() != ErrorCode::not_found) throw;
    }
    try {
        (void)open_beneath(pool, overlay.parent, O_RDONLY);
    } catch (const Error& error) {
        throw Error(ErrorCode::broken_chain,
                    "neither overlay {} nor the image below it can be found in {} (is it mounted?): {}",
                    quote(overlay.file), quote(overlay.pool), error.what());
    }
    return {};
}

/// What is filled is flushed before anybody gets to see it, so an image without a beginning is none yet.
bool never_filled(const qcow2::FileSource& source) {
    std::array<std::byte, 4> magic{};
    if (source.size() >= magic.size()) source.read(magic, 0);
    return magic == std::array<std::byte, 4>{};
}

}  // namespace

std::string overlay_file_name(const std::string& parent, const std::string& disk, const Uuid& volume) {
    const std::string name = fmt::format("{}-{}.qcow2", file_name_part(disk), volume.str());
    return (fs::path(parent).parent_path() / name).string();
}

std::uint64_t create_overlay_file(const OverlayFile& overlay) {
    try {
        const UniqueFd pool = open_directory(overlay.pool);
        const UniqueFd parent = open_beneath(pool.get(), overlay.parent, O_RDONLY);
        const auto options = options_for(overlay, qcow2::FileSource(parent.get()));
        const UniqueFd fd = open_beneath(pool.get(), overlay.file, O_WRONLY | O_CREAT | O_EXCL, 0600);
        try {
            fill(overlay, pool.get(), parent.get(), fd.get(), qcow2::empty_image(options));
        } catch (const Error&) {
            (void)::unlinkat(pool.get(), overlay.file.c_str(), 0);
            throw;
        }
        return options.virtual_size;
    } catch (const Error& error) {
        throw error.during("creating overlay " + quote((fs::path(overlay.pool) / overlay.file).string()));
    }
}

bool overlay_is_pristine(const OverlayFile& overlay) {
    const UniqueFd pool = open_directory(overlay.pool);
    const UniqueFd fd = open_if_there(pool.get(), overlay);
    if (!fd) return true;
    const qcow2::FileSource source(fd.get());
    if (never_filled(source)) return true;
    try {
        const qcow2::Header header = qcow2::read_header(source);
        return header.backing_file == backing_name(overlay.parent) && !qcow2::has_data(source, header);
    } catch (const Error& error) {
        // Whatever it is, it is not what we made. Where it cannot be read, nobody knows.
        if (error.code() == ErrorCode::corrupt_image || error.code() == ErrorCode::unsupported) return false;
        throw;
    }
}

void remove_new_overlay(const OverlayFile& overlay, bool opened) {
    const std::string path = (fs::path(overlay.pool) / overlay.file).string();
    const UniqueFd pool = open_directory(overlay.pool);
    std::optional<qmp::ImageLock> lock;
    if (opened) {
        if (!overlay_is_pristine(overlay))
            throw Error(ErrorCode::in_use, "overlay {} holds data and is not removed", quote(path));
        try {
            lock = qmp::ImageLock::take_writer(open_beneath(pool.get(), overlay.file, O_RDONLY), path);
        } catch (const Error& error) {
            if (error.code() != ErrorCode::not_found) throw;
        }
    }
    (void)remove_file(pool.get(), overlay.file);
}

}  // namespace volchain::storage
