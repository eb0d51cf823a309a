// SPDX-License-Identifier: MIT
#include "storage/backups/backup_place.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "base/file.h"
#include "base/text.h"
#include "qcow2/empty_image.h"
#include "storage/volumes/new_image.h"

namespace volchain::storage {
namespace {

/// For the moment in which a write that cannot be copied would stop the guest (backup_nodes.h).
constexpr std::uint64_t least_room = std::uint64_t{64} << 20;

void make_directory(const std::string& path, mode_t mode) {
    if (::mkdir(path.c_str(), mode) < 0 && errno != EEXIST)
        throw system_error(errno, "cannot make directory " + quote(path));
    if (::chmod(path.c_str(), mode) < 0) throw system_error(errno, "cannot set the mode of " + quote(path));
}

void give(const std::string& path, uid_t user, gid_t group) {
    const bool mine = user == ::geteuid() && group == ::getegid();
    if ((!mine || ::geteuid() == 0) && ::lchown(path.c_str(), user, group) < 0)
        throw system_error(errno, fmt::format("cannot give {} to user {}", quote(path), user));
}

}  // namespace

BackupPlace place_of_backup(const Engine& engine, const Uuid& id) {
    return {engine.runtime_directory(), id};
}

void BackupPlace::make_for(const async::Identity& qemu) const {
    make_directory(parent_, 0711);
    make_directory(directory_, 0711);
    give(directory_, qemu.uid, qemu.gid);
}

void BackupPlace::give_socket_to(uid_t user) const {
    // First the directory, so that nobody can put another file into the socket's place.
    give(directory_, ::geteuid(), ::getegid());
    struct stat status {};
    if (::lstat(socket().c_str(), &status) < 0)
        throw system_error(errno, "QEMU has not made socket " + quote(socket()));
    if (!S_ISSOCK(status.st_mode))
        throw Error(ErrorCode::qemu_failed, "what QEMU has made at {} is no socket", quote(socket()));
    if (::chmod(socket().c_str(), 0600) < 0)
        throw system_error(errno, "cannot set the mode of " + quote(socket()));
    give(socket(), user, ::getegid());
}

bool BackupPlace::has_socket() const {
    struct stat status {};
    return ::lstat(socket().c_str(), &status) == 0;
}

void BackupPlace::remove() const {
    std::error_code failure;
    std::filesystem::remove_all(directory_, failure);
    if (failure) throw system_error(failure.value(), "cannot remove " + quote(directory_));
}

ScratchFile scratch_of(const Catalog& catalog, const Uuid& backup, const BackupDisk& disk, char which) {
    const VolumeRecord& volume = catalog.volume(disk.volume);
    ScratchFile scratch;
    scratch.pool = catalog.pool(volume.pool).path;
    scratch.model = volume.file;
    const std::string name =
        fmt::format(".vc-{}-{}-{}.qcow2", backup.str().substr(0, 13), disk.disk.str().substr(0, 13), which);
    scratch.file = (std::filesystem::path(volume.file).parent_path() / name).string();
    scratch.size = catalog.facts(disk.volume).size;
    return scratch;
}

std::vector<ScratchFile> scratch_of_failed_backups(const Catalog& catalog, const Uuid& disk) {
    std::vector<ScratchFile> left;
    for (const auto& [id, record] : catalog.backups()) {
        if (record.state != BackupState::failed || record.source != BackupSource::running) continue;
        for (const BackupDisk& part : record.disks)
            for (const char which : {'a', 'b'})
                if (part.disk == disk && catalog.has({ObjectKind::volume, part.volume}))
                    left.push_back(scratch_of(catalog, id, part, which));
    }
    return left;
}

void make_scratch(const ScratchFile& scratch) {
    try {
        const NewFile file(scratch.pool, scratch.file);
        const qcow2::EmptyImage image = qcow2::empty_image(qcow2::EmptyImageOptions(scratch.size));
        make_image_file_like(file, scratch.pool, scratch.model);
        const UniqueFd pool = open_directory(scratch.pool);
        const UniqueFd fd = open_beneath(pool.get(), scratch.file, O_WRONLY);
        for (const qcow2::Extent& extent : image.extents) write_at(fd.get(), extent.bytes, extent.offset);
        if (::ftruncate(fd.get(), static_cast<off_t>(image.length)) < 0)
            throw system_error(errno, "cannot set its length");
    } catch (const Error& error) {
        throw error.during("making scratch image " + quote(scratch.path()));
    }
}

void remove_scratch(const ScratchFile& scratch) {
    remove_image_file(NewFile(scratch.pool, scratch.file));
}

void check_room_for_scratch(const ScratchFile& scratch) {
    struct statvfs status {};
    if (::statvfs(scratch.pool.c_str(), &status) < 0)
        throw system_error(errno, "cannot look at the file system of " + quote(scratch.pool));
    const std::uint64_t room = std::uint64_t{status.f_bavail} * status.f_frsize;
    if (room < least_room)
        throw Error(ErrorCode::no_space,
                    "{} has only {} bytes left, and what the guest overwrites during a backup is kept there; "
                    "make room",
                    quote(scratch.pool), room);
}

}  // namespace volchain::storage
