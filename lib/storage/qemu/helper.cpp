// SPDX-License-Identifier: MIT
#include "storage/qemu/helper.h"

#include <unistd.h>

#include <algorithm>

#include "base/text.h"
#include "storage/images/image_owner.h"

namespace volchain::storage {

namespace {

qmp::StorageDaemonOptions helper_options(const Engine& engine) {
    qmp::StorageDaemonOptions options(fmt::format("{}/storage-daemon-{}.sock", engine.runtime_directory(),
                                                  Uuid::make().str().substr(0, 8)));
    options.program = engine.settings().storage_daemon;
    return options;
}

Catalog::Place place_of(const Engine& engine, const std::string& image) {
    auto place = engine.catalog().place(image);
    if (!place) throw Error(ErrorCode::internal, "image {} is in no pool", quote(image));
    return *std::move(place);
}

}  // namespace

async::Task<async::Identity> identity_for(Engine& engine, std::vector<ImageAccess> images) {
    const auto written =
        std::find_if(images.begin(), images.end(), [](const ImageAccess& image) { return image.write; });
    const std::string decisive = written == images.end() ? images.front().path : written->path;
    for (const ImageAccess& image : images) {
        const Catalog::Place place = place_of(engine, image.path);
        auto look = [pool = engine.catalog().pool(place.pool).path, file = place.file] {
            check_plain_file(pool, file);
        };
        co_await engine.files().run(std::move(look));
    }
    const Catalog::Place place = place_of(engine, decisive);
    auto look = [pool = engine.catalog().pool(place.pool).path, file = place.file] {
        return image_owner(pool, file);
    };
    co_return co_await engine.files().run(std::move(look));
}

namespace {

std::vector<async::Command::Access> accesses(std::vector<ImageAccess> images) {
    std::vector<async::Command::Access> files;
    for (ImageAccess& image : images) {
        files.emplace_back();
        files.back().path = std::move(image.path);
        files.back().write = image.write;
    }
    return files;
}

async::Task<std::shared_ptr<qmp::StorageDaemon>> start_with(Engine& engine, qmp::StorageDaemonOptions options,
                                                            std::vector<ImageAccess> images) {
    const async::Identity owner = co_await identity_for(engine, images);
    if (::geteuid() == 0) options.identity = owner;
    for (async::Command::Access& access : accesses(std::move(images)))
        options.files.push_back(std::move(access));
    co_return co_await qmp::StorageDaemon::start(std::move(options),
                                                 async::after(engine.settings().command_timeout));
}

}  // namespace

async::Task<std::shared_ptr<qmp::StorageDaemon>> start_storage_daemon(Engine& engine, std::string image) {
    std::vector<ImageAccess> images;
    images.emplace_back(std::move(image), true);
    co_return co_await start_storage_daemon(engine, std::move(images));
}

async::Task<std::shared_ptr<qmp::StorageDaemon>> start_storage_daemon(Engine& engine,
                                                                      std::vector<ImageAccess> images) {
    qmp::StorageDaemonOptions options = helper_options(engine);
    co_return co_await start_with(engine, std::move(options), std::move(images));
}

async::Task<std::shared_ptr<qmp::StorageDaemon>> start_nbd_daemon(Engine& engine,
                                                                  std::vector<ImageAccess> images,
                                                                  int listening) {
    qmp::StorageDaemonOptions options = helper_options(engine);
    options.inherit.push_back(listening);
    options.arguments.emplace_back("--nbd-server");
    options.arguments.push_back(fmt::format("addr.type=fd,addr.str={},max-connections=1", listening));
    co_return co_await start_with(engine, std::move(options), std::move(images));
}

async::Task<std::shared_ptr<qmp::StorageDaemon>> start_copying_daemon(Engine& engine,
                                                                      std::vector<ImageAccess> images,
                                                                      std::string target) {
    qmp::StorageDaemonOptions options = helper_options(engine);
    options.files.emplace_back();
    options.files.back().path = std::move(target);
    options.files.back().write = true;
    co_return co_await start_with(engine, std::move(options), std::move(images));
}

async::Task<qmp::QemuImg> helper_qemu_img(Engine& engine, std::vector<ImageAccess> images) {
    qmp::QemuImg qemu_img(engine.settings().qemu_img);
    const async::Identity owner = co_await identity_for(engine, images);
    if (::geteuid() == 0) qemu_img.identity = owner;
    qemu_img.files = accesses(std::move(images));
    co_return qemu_img;
}

async::Task<std::string> probe_storage_daemon(Engine& engine) {
    const async::Deadline deadline = async::after(engine.settings().command_timeout);
    const auto helper = co_await qmp::StorageDaemon::start(helper_options(engine), deadline);
    std::string version = helper->session()->greeting().version;
    (void)co_await helper->stop(deadline);
    co_return version;
}

}  // namespace volchain::storage
