// SPDX-License-Identifier: MIT
#include "storage/volumes/copy_file.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "base/file.h"
#include "base/text.h"
#include "qmp/image_lock.h"
#include "qmp/node.h"
#include "storage/qemu/block_job.h"
#include "storage/qemu/helper.h"

namespace volchain::storage {
namespace {

/// The copy is as long as the file, in sectors, as QEMU counts: what is added is behind an image's last cluster.
void make_as_long(const NewFile& target, const std::string& pool_path, const std::string& file) {
    make_image_file_like(target, pool_path, file);
    const UniqueFd pool = open_directory(pool_path);
    const UniqueFd from = open_beneath(pool.get(), file, O_RDONLY);
    struct stat status {};
    if (::fstat(from.get(), &status) < 0) throw system_error(errno, "cannot look at " + quote(file));
    const UniqueFd target_pool = open_directory(target.pool);
    const UniqueFd to = open_beneath(target_pool.get(), target.file, O_WRONLY);
    const auto length = raw_disk_size(static_cast<std::uint64_t>(status.st_size));
    if (::ftruncate(to.get(), static_cast<off_t>(length)) < 0)
        throw system_error(errno, fmt::format("cannot set the length of {}", quote(target.path())));
}

async::Task<> fill_file(Engine& engine, JobPtr job, std::shared_ptr<qmp::Session> session, std::string source,
                        NewFile target, std::uint64_t done_before, std::uint64_t total) {
    const async::Deadline soon = async::after(engine.settings().command_timeout);
    qmp::NodeOptions sparse;
    sparse.discard = true;
    Json from = qmp::file_node("from", source, qmp::Access::read_only, sparse);
    Json to = qmp::file_node("to", target.path(), qmp::Access::read_write, sparse);
    (void)co_await session->execute("blockdev-add", std::move(from), soon);
    (void)co_await session->execute("blockdev-add", std::move(to), soon);
    BlockJob block_job(engine, job, session, "copy", target.path());
    block_job.count(done_before, total);
    co_await block_job.mirror("from", "to", "full");
}

async::Task<> mirror_file(Engine& engine, JobPtr job, std::string source, NewFile target,
                          std::uint64_t done_before, std::uint64_t total) {
    std::vector<ImageAccess> images;
    images.emplace_back(target.path(), true);
    images.emplace_back(source, false);
    const auto helper = co_await start_storage_daemon(engine, std::move(images));
    std::exception_ptr failure;
    co_await async::keep_failure(
        fill_file(engine, job, helper->session(), source, target, done_before, total), failure);
    // Also after a failure: what is removed then takes room until nobody has it open.
    const bool clean = co_await helper->stop(async::after(engine.settings().command_timeout));
    if (failure) std::rethrow_exception(failure);
    if (!clean) throw Error(ErrorCode::qemu_failed, "the storage daemon did not end in order");
}

}  // namespace

bool reflink_file(const std::string& pool_path, const std::string& file, const NewFile& target) {
    const UniqueFd pool = open_directory(pool_path);
    // A QEMU that would write to it is kept from it for the moment.
    const auto from =
        qmp::ImageLock::take_reader(open_beneath(pool.get(), file, O_RDONLY), pool_path + "/" + file);
    const UniqueFd target_pool = open_directory(target.pool);
    const UniqueFd to = open_beneath(target_pool.get(), target.file, O_WRONLY);
    if (::ioctl(to.get(), FICLONE, from.fd()) == 0) return true;
    if (errno == EOPNOTSUPP || errno == EXDEV || errno == EINVAL || errno == ENOTTY) return false;
    throw system_error(errno, fmt::format("cannot make {} a reflink", quote(target.path())));
}

async::Task<> copy_file(Engine& engine, JobPtr job, Uuid source, NewFile target, std::uint64_t done_before,
                        std::uint64_t total) {
    const Catalog& catalog = engine.catalog();
    const VolumeRecord volume = catalog.volume(source);
    const std::string pool = catalog.pool(volume.pool).path;
    auto make = [target, pool, file = volume.file] {
        make_as_long(target, pool, file);
        return reflink_file(pool, file, target);
    };
    const bool linked = co_await engine.files().run(std::move(make));
    if (!linked) co_await mirror_file(engine, job, pool + "/" + volume.file, target, done_before, total);
    auto flush = [target] { flush_image_file(target); };
    co_await engine.files().run(std::move(flush));
}

}  // namespace volchain::storage
