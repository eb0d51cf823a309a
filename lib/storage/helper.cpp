// SPDX-License-Identifier: MIT
#include "storage/helper.h"

#include <sys/stat.h>
#include <unistd.h>

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
    struct stat status {};
    if (::stat(image.c_str(), &status) < 0) throw system_error(errno, "cannot look at " + quote(image));
    qmp::StorageDaemonOptions options(fmt::format("{}/storage-daemon-{}.sock", engine.runtime_directory(),
                                                  Uuid::make().str().substr(0, 8)));
    options.program = engine.settings().storage_daemon;
    if (::geteuid() == 0) {
        options.identity.emplace();
        options.identity->uid = status.st_uid;
        options.identity->gid = status.st_gid;
    }
    options.files.emplace_back();
    options.files.back().path = std::move(image);
    options.files.back().write = true;
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
