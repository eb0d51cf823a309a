// SPDX-License-Identifier: MIT
#include "storage/images/doomed_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "base/file.h"
#include "base/text.h"
#include "qmp/image_lock.h"
#include "storage/jobs/held_volumes.h"

namespace volchain::storage {
namespace {

/// Nothing happens where it is gone already.
void unlink_unused(const std::string& pool_path, const std::string& file) {
    const UniqueFd pool = open_directory(pool_path);
    const std::string path = pool_path + "/" + file;
    if (::faccessat(pool.get(), file.c_str(), F_OK, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT) return;
    const auto lock = qmp::ImageLock::take_writer(open_beneath(pool.get(), file, O_RDONLY), path);
    try {
        (void)remove_file(pool.get(), file);
    } catch (const Error& error) {
        throw error.during("in " + quote(pool_path));
    }
}

Json record_json(const VolumeRecord& record) {
    Json entry;
    entry["id"] = record.id.str();
    entry["disk"] = record.disk.str();
    entry["pool"] = record.pool.str();
    entry["format"] = word(record.format);
    entry["created"] = to_usec(record.created);
    return entry;
}

/// None in the plans of earlier versions.
std::optional<VolumeRecord> parse_record(const JsonReader& file) {
    const auto found = file.find("record");
    if (!found) return std::nullopt;
    VolumeRecord record;
    record.id = id_in(found->at("id"));
    record.disk = id_in(found->at("disk"));
    record.pool = id_in(found->at("pool"));
    record.file = file.at("file").string();
    record.format = from_word<VolumeFormat>(found->at("format").string()).value_or(VolumeFormat::qcow2);
    record.created = from_usec(found->at("created").u64());
    return record;
}

}  // namespace

void check_removable(Engine& engine, const Uuid& volume, const std::set<Uuid>& leaving) {
    const Catalog& catalog = engine.catalog();
    const std::string what = catalog.describe({ObjectKind::volume, volume});
    check_not_exported(catalog, volume);
    for (const auto& [id, disk] : catalog.disks())
        if (disk.active == volume || disk.former == volume)
            throw Error(ErrorCode::in_use, "{} is the {} volume of {}", what,
                        disk.active == volume ? "active" : "former active",
                        catalog.describe({ObjectKind::disk, id}));
    for (const auto& [id, snapshot] : catalog.snapshots()) {
        if (leaving.contains(id)) continue;
        for (const SnapshotDisk& part : snapshot.disks)
            if (part.volume == volume)
                throw Error(ErrorCode::in_use, "{} belongs to {}; delete that first", what,
                            catalog.describe({ObjectKind::snapshot, id}));
    }
    check_nothing_stands_on(engine, volume, leaving);
}

void check_nothing_stands_on(Engine& engine, const Uuid& volume, const std::set<Uuid>& leaving) {
    const Catalog& catalog = engine.catalog();
    const std::string what = catalog.describe({ObjectKind::volume, volume});
    for (const Uuid& child : catalog.children(volume))
        if (!leaving.contains(child))
            throw Error(ErrorCode::in_use, "{} is the backing file of {}", what,
                        catalog.describe({ObjectKind::volume, child}));
    const std::string path = catalog.path(catalog.volume(volume));
    const Uuid vm = catalog.disk(catalog.volume(volume).disk).vm;
    if (!vm) return;
    for (const LiveDisk& disk : engine.vm(vm).disks())
        for (const LiveLayer& layer : disk.layers)
            if (layer.path == path)
                throw Error(ErrorCode::in_use, "{} is a layer of a disk of {}, which is running", what,
                            catalog.describe({ObjectKind::vm, vm}));
}

UnwantedFile unwanted_file(const std::string& pool_directory, const std::string& file) {
    UnwantedFile unwanted{pool_directory, file, 0, now()};
    struct stat status {};
    const std::string path = pool_directory + "/" + file;
    if (::lstat(path.c_str(), &status) == 0) unwanted.inode = status.st_ino;
    return unwanted;
}

async::Task<> remember_unwanted(Engine& engine, std::string pool_directory, std::string file) {
    auto look = [pool_directory, file] { return unwanted_file(pool_directory, file); };
    UnwantedFile unwanted = co_await engine.files().run(std::move(look));
    Changes changes;
    changes.put(std::move(unwanted));
    std::exception_ptr failure;
    co_await async::keep_failure(engine.catalog().commit(std::move(changes), Durability::power), failure);
    if (failure)
        log().warning("{} stays and cannot be remembered: {}", quote(pool_directory + "/" + file),
                      to_error(failure).what());
}

DoomedFiles DoomedFiles::from_plan(const JsonReader& list) {
    DoomedFiles doomed;
    for (const JsonReader& entry : list.elements())
        doomed.files_.push_back({entry.at("pool").string(), entry.at("file").string(), parse_record(entry)});
    return doomed;
}

Json DoomedFiles::plan() const {
    Json list = Json::array();
    for (const File& file : files_) {
        Json entry{{"pool", file.pool}, {"file", file.file}};
        if (file.record) entry["record"] = record_json(*file.record);
        list.push_back(std::move(entry));
    }
    return list;
}

void DoomedFiles::add(Engine& engine, const Uuid& volume, Changes& changes) {
    const VolumeRecord& record = engine.catalog().volume(volume);
    files_.push_back({engine.catalog().pool(record.pool).path, record.file, record});
    changes.remove(ObjectKind::volume, volume);
}

void DoomedFiles::add(std::string pool_directory, std::string file) {
    files_.push_back({std::move(pool_directory), std::move(file), std::nullopt});
}

async::Task<> DoomedFiles::unlink_all(Engine& engine) {
    std::exception_ptr first;
    Changes gone;
    std::vector<File> left;
    for (const File& file : files_) {
        auto work = [pool = file.pool, name = file.file] { unlink_unused(pool, name); };
        std::exception_ptr failure;
        co_await async::keep_failure(engine.files().run(std::move(work)), failure);
        if (failure) left.push_back(file);
        if (!first) first = failure;
        // Stopped at shutdown it is the operation's recovery that goes on with it.
        if (failure && to_error(failure).code() != ErrorCode::cancelled)
            co_await remember_unwanted(engine, file.pool, file.file);
        if (!failure && engine.catalog().unwanted_files().contains(file.pool + "/" + file.file))
            gone.put(UnwantedFile{file.pool, file.file, 0, {}, false});
    }
    std::exception_ptr not_noted;
    if (!gone.empty())
        co_await async::keep_failure(engine.catalog().commit(std::move(gone), Durability::process),
                                     not_noted);
    if (not_noted) log().debug("files that have gone are still remembered: {}", to_error(not_noted).what());
    files_ = std::move(left);
    if (first) std::rethrow_exception(first);
}

std::vector<Uuid> DoomedFiles::give_back(Changes& changes) const {
    std::vector<Uuid> volumes;
    for (const File& file : files_) {
        if (!file.record) continue;
        VolumeRecord record = *file.record;
        record.mark = VolumeMark::leftover;
        volumes.push_back(record.id);
        changes.put(std::move(record)).put(UnwantedFile{file.pool, file.file, 0, {}, false});
    }
    return volumes;
}

}  // namespace volchain::storage
