// SPDX-License-Identifier: MIT
#include "storage/overlay_file.h"

#include <sys/stat.h>
#include <sys/xattr.h>

#include <cerrno>
#include <filesystem>
#include <optional>
#include <vector>

#include "base/file.h"
#include "base/text.h"
#include "qcow2/allocation.h"
#include "qcow2/empty_image.h"
#include "qmp/image_lock.h"
#include "storage/image.h"

namespace volchain::storage {
namespace {

namespace fs = std::filesystem;

/// The parent's name as the overlay's header has it: both are in one directory. "./" keeps QEMU from taking a
/// colon for the end of a protocol's name.
std::string backing_name(const std::string& parent) {
    const std::string name = fs::path(parent).filename().string();
    return name.find(':') == std::string::npos ? name : "./" + name;
}

/// Labels and ACLs go with the parent's, so that whatever may open the parent may open the overlay.
void copy_attribute(int from, int to, const char* name) {
    std::vector<char> value(65536);
    const ssize_t size = ::fgetxattr(from, name, value.data(), value.size());
    if (size < 0) {
        if (errno == ENODATA || errno == ENOTSUP) return;
        throw system_error(errno, fmt::format("cannot read attribute {}", name));
    }
    if (::fsetxattr(to, name, value.data(), static_cast<std::size_t>(size), 0) < 0)
        throw system_error(errno, fmt::format("cannot set attribute {}", name));
}

void copy_access(int from, int to) {
    struct stat parent {};
    struct stat mine {};
    if (::fstat(from, &parent) < 0 || ::fstat(to, &mine) < 0)
        throw system_error(errno, "cannot look at the image");
    const bool same_owner = parent.st_uid == mine.st_uid && parent.st_gid == mine.st_gid;
    if (!same_owner && ::fchown(to, parent.st_uid, parent.st_gid) < 0)
        throw system_error(errno, fmt::format("cannot give it the owner {}:{} of the image below",
                                              parent.st_uid, parent.st_gid));
    // A parent may be read-only by mode (a template); the overlay is there to be written.
    if (::fchmod(to, (parent.st_mode & 0777) | S_IRUSR | S_IWUSR) < 0)
        throw system_error(errno, "cannot set its mode");
    copy_attribute(from, to, "system.posix_acl_access");
    copy_attribute(from, to, "security.selinux");
}

qcow2::EmptyImageOptions options_for(const OverlayFile& overlay, const qcow2::ImageSource& parent) {
    if (overlay.parent_format == VolumeFormat::raw) {
        qcow2::EmptyImageOptions options(raw_disk_size(parent.size()));
        options.on(backing_name(overlay.parent), "raw");
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
    try {
        const UniqueFd fd = open_beneath(pool.get(), overlay.file, O_RDONLY);
        const qcow2::FileSource source(fd.get());
        const qcow2::Header header = qcow2::read_header(source);
        return header.backing_file == backing_name(overlay.parent) && !qcow2::has_data(source, header);
    } catch (const Error& error) {
        return error.code() == ErrorCode::not_found;
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
    if (::unlinkat(pool.get(), overlay.file.c_str(), 0) < 0 && errno != ENOENT)
        throw system_error(errno, "cannot remove " + quote(path));
}

}  // namespace volchain::storage
