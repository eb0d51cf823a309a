// SPDX-License-Identifier: MIT
#include "storage/helper.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/text.h"

namespace volchain::storage {

namespace {

qmp::StorageDaemonOptions helper_options(const Engine& engine) {
    qmp::StorageDaemonOptions options(fmt::format("{}/storage-daemon-{}.sock", engine.runtime_directory(),
                                                  Uuid::make().str().substr(0, 8)));
    options.program = engine.settings().storage_daemon;
    return options;
}

}  // namespace

async::Task<std::shared_ptr<qmp::StorageDaemon>> start_storage_daemon(Engine& engine, std::string image) {
    std::vector<ImageAccess> images;
    images.emplace_back(std::move(image), true);
    co_return co_await start_storage_daemon(engine, std::move(images));
}

async::Task<std::shared_ptr<qmp::StorageDaemon>> start_storage_daemon(Engine& engine,
                                                                      std::vector<ImageAccess> images) {
    const auto written =
        std::find_if(images.begin(), images.end(), [](const ImageAccess& image) { return image.write; });
    const std::string& owned = written == images.end() ? images.front().path : written->path;
    struct stat status {};
    if (::stat(owned.c_str(), &status) < 0) throw system_error(errno, "cannot look at " + quote(owned));
    qmp::StorageDaemonOptions options = helper_options(engine);
    if (::geteuid() == 0) {
        options.identity.emplace();
        options.identity->uid = status.st_uid;
        options.identity->gid = status.st_gid;
    }
    for (ImageAccess& image : images) {
        options.files.emplace_back();
        options.files.back().path = std::move(image.path);
        options.files.back().write = image.write;
    }
    co_return co_await qmp::StorageDaemon::start(std::move(options),
                                                 async::after(engine.settings().command_timeout));
}

async::Task<std::string> probe_storage_daemon(Engine& engine) {
    const async::Deadline deadline = async::after(engine.settings().command_timeout);
    const auto helper = co_await qmp::StorageDaemon::start(helper_options(engine), deadline);
    std::string version = helper->session()->greeting().version;
    (void)co_await helper->stop(deadline);
    co_return version;
}

}  // namespace volchain::storage
