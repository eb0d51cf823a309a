// SPDX-License-Identifier: MIT
#include "storage/exports/export_place.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "base/error.h"
#include "base/file.h"
#include "base/text.h"
#include "qcow2/empty_image.h"
#include "qmp/image_lock.h"
#include "qmp/unix_socket.h"

namespace volchain::storage {
namespace {

namespace fs = std::filesystem;

/// A directory that others may pass through, whatever the umask is.
void make_passable(const std::string& path) {
    if (::mkdir(path.c_str(), 0711) < 0 && errno != EEXIST)
        throw system_error(errno, "cannot make directory " + quote(path));
    if (::chmod(path.c_str(), 0711) < 0) throw system_error(errno, "cannot set the mode of " + quote(path));
}

bool absent(const std::string& path) {
    struct stat status {};
    return ::lstat(path.c_str(), &status) < 0 && errno == ENOENT;
}

void fill(int fd, const qcow2::EmptyImage& image) {
    for (const qcow2::Extent& extent : image.extents) write_at(fd, extent.bytes, extent.offset);
    if (::ftruncate(fd, static_cast<off_t>(image.length)) < 0)
        throw system_error(errno, "cannot set its length");
}

void give_to(int directory, const char* name, uid_t user, gid_t group) {
    const bool mine = user == ::geteuid() && group == ::getegid();
    if (!mine && ::fchownat(directory, name, user, group, AT_SYMLINK_NOFOLLOW) < 0)
        throw system_error(errno, fmt::format("cannot give {} to user {}", quote(name), user));
}

}  // namespace

ExportPlace::ExportPlace(const std::string& runtime_directory, const std::string& state_directory,
                         const Uuid& id)
    : runtime_exports_(runtime_directory + "/exports"),
      state_exports_(state_directory + "/exports"),
      directory_(runtime_exports_ + "/" + id.str()),
      overlay_(state_exports_ + "/" + id.str() + ".qcow2") {}

void ExportPlace::make() const {
    make_passable(runtime_exports_);
    make_passable(directory_);
}

void ExportPlace::make_overlay(std::uint64_t size, const std::string& below, VolumeFormat format_below,
                               const async::Identity& owner) const {
    make_passable(state_exports_);
    qcow2::EmptyImageOptions options(size);
    options.on(below, std::string(word(format_below)));
    const qcow2::EmptyImage image = qcow2::empty_image(options);
    const UniqueFd directory = open_directory(state_exports_);
    const std::string name = fs::path(overlay_).filename().string();
    const UniqueFd fd = open_beneath(directory.get(), name, O_WRONLY | O_CREAT | O_EXCL, 0600);
    fill(fd.get(), image);
    give_to(directory.get(), name.c_str(), owner.uid, owner.gid);
}

UniqueFd ExportPlace::listen(uid_t user) const {
    UniqueFd fd = qmp::listen_unix(socket(), 0600);
    const UniqueFd directory = open_directory(directory_);
    give_to(directory.get(), "nbd.sock", user, ::getegid());
    return fd;
}

void ExportPlace::remove_credentials() const {
    std::error_code failure;
    fs::remove_all(credentials(), failure);
    if (failure) throw system_error(failure.value(), "cannot remove " + quote(credentials()));
}

void ExportPlace::make_mountpoint() const {
    const UniqueFd directory = open_directory(directory_);
    const std::string name = fs::path(file()).filename().string();
    (void)open_beneath(directory.get(), name, O_WRONLY | O_CREAT | O_EXCL, 0600);
}

void ExportPlace::give_file_to(uid_t user) const {
    if (::chown(file().c_str(), user, static_cast<gid_t>(-1)) < 0)
        throw system_error(errno, fmt::format("cannot give {} to user {}", quote(file()), user));
}

void ExportPlace::unmount() const {
    // Not a look first: a mount whose process has died cannot be looked at. Where we may not unmount, we have not mounted.
    if (::umount2(file().c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) < 0 && errno != EINVAL && errno != ENOENT &&
        errno != EPERM)
        throw system_error(errno, "cannot unmount " + quote(file()));
}

void ExportPlace::remove() const {
    if (!absent(overlay_)) {
        const UniqueFd exports = open_directory(state_exports_);
        const std::string name = fs::path(overlay_).filename().string();
        const auto lock = qmp::ImageLock::take_writer(open_beneath(exports.get(), name, O_RDONLY), overlay_);
        (void)remove_file(exports.get(), name);
    }
    if (absent(directory_)) return;
    std::error_code failure;
    fs::remove_all(directory_, failure);
    if (failure) throw system_error(failure.value(), "cannot remove " + quote(directory_));
}

UniqueFd connect_as_client(const std::string& socket) {
    UniqueFd connected = qmp::connect_unix(socket);
    // Whoever gets it expects a plain socket.
    const int plain = 0;
    if (::setsockopt(connected.get(), SOL_SOCKET, SO_PASSCRED, &plain, sizeof plain) < 0 ||
        ::fcntl(connected.get(), F_SETFL, 0) < 0)
        throw system_error(errno, "cannot set up a connection");
    return connected;
}

}  // namespace volchain::storage
