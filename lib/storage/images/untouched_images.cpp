// SPDX-License-Identifier: MIT
#include "storage/images/untouched_images.h"

#include "base/text.h"
#include "storage/images/image_stamp.h"

namespace volchain::storage {
namespace {

constexpr auto touch_interval = std::chrono::seconds(2);

/// A class with a constructor, so that it may be handed to coroutines.
struct StampedImage {
    StampedImage(const Catalog& catalog, const BackupDisk& part)
        : pool(catalog.pool(catalog.volume(part.volume).pool).path),
          file(catalog.volume(part.volume).file),
          stamp(part.stamp) {}

    std::string pool;
    std::string file;
    std::string stamp;
};

void check_stamps(const std::vector<StampedImage>& images) {
    for (const StampedImage& image : images)
        if (ImageStamp::of(image.pool, image.file).str() != image.stamp)
            throw Error(ErrorCode::qemu_failed,
                        "{} was written to: the VM was started, or another program has changed it",
                        quote(image.pool + "/" + image.file));
}

}  // namespace

async::Task<> check_untouched(Engine& engine, BackupRecord record) {
    std::vector<StampedImage> images;
    for (const BackupDisk& part : record.disks)
        if (!part.stamp.empty()) images.emplace_back(engine.catalog(), part);
    auto work = [images = std::move(images)] { check_stamps(images); };
    co_await engine.files().run(std::move(work));
}

async::Task<> until_touched(Engine& engine, BackupRecord record) {
    while (true) {
        co_await async::sleep_until(async::after(touch_interval));
        std::exception_ptr failure;
        co_await async::keep_failure(check_untouched(engine, record), failure);
        if (!failure) continue;
        const Error error = to_error(failure);
        if (error.code() == ErrorCode::cancelled) throw error;
        if (error.code() == ErrorCode::qemu_failed) co_return;
        log().debug("{}", error.what());
    }
}

}  // namespace volchain::storage
