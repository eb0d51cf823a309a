// SPDX-License-Identifier: MIT
#include "storage/images/volume_lock.h"

#include <unistd.h>

#include <cerrno>

#include "base/file.h"
#include "base/text.h"

namespace volchain::storage {
namespace {

/// Where a volume lies. A class with a constructor, so that it may be handed to coroutines.
struct VolumePlace {
    VolumePlace(const Catalog& catalog, const Uuid& volume)
        : pool(catalog.pool(catalog.volume(volume).pool).path), file(catalog.volume(volume).file) {}

    [[nodiscard]] std::string path() const { return pool + "/" + file; }

    std::string pool;
    std::string file;
};

UniqueFd open_volume(const VolumePlace& place) {
    try {
        const UniqueFd directory = open_directory(place.pool);
        return open_beneath(directory.get(), place.file, O_RDONLY);
    } catch (const Error& error) {
        const ErrorCode code = error.code() == ErrorCode::not_found ? ErrorCode::broken_chain : error.code();
        throw Error(code, "volume {}: {}", quote(place.path()), error.what());
    }
}

qmp::ImageLock lock_place(const VolumePlace& place, bool writer) {
    UniqueFd image = open_volume(place);
    return writer ? qmp::ImageLock::take_writer(std::move(image), place.path())
                  : qmp::ImageLock::take_reader(std::move(image), place.path());
}

bool gone_from_pool(const VolumePlace& place) {
    const UniqueFd directory = open_directory(place.pool);
    return ::faccessat(directory.get(), place.file.c_str(), F_OK, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT;
}

async::Task<qmp::ImageLock> lock_volume(Engine& engine, Uuid volume, bool writer) {
    auto work = [place = VolumePlace(engine.catalog(), volume), writer] { return lock_place(place, writer); };
    co_return co_await engine.files().run(std::move(work));
}

}  // namespace

async::Task<qmp::ImageLock> lock_for_writing(Engine& engine, Uuid volume) {
    return lock_volume(engine, volume, true);
}

async::Task<qmp::ImageLock> lock_for_reading(Engine& engine, Uuid volume) {
    return lock_volume(engine, volume, false);
}

async::Task<std::optional<qmp::ImageLock>> lock_if_there(Engine& engine, Uuid volume) {
    auto work = [place = VolumePlace(engine.catalog(), volume)]() -> std::optional<qmp::ImageLock> {
        if (gone_from_pool(place)) return std::nullopt;
        return lock_place(place, true);
    };
    co_return co_await engine.files().run(std::move(work));
}

}  // namespace volchain::storage
