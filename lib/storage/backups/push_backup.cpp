// SPDX-License-Identifier: MIT
#include "storage/backups/push_backup.h"

#include "qmp/node.h"
#include "storage/backups/backup_place.h"
#include "storage/qemu/block_job.h"
#include "storage/volumes/new_image.h"

namespace volchain::storage {
namespace {

constexpr auto copy_end_limit = std::chrono::seconds(60);

async::Task<> run_copy(BlockJob& copy, Json arguments) {
    co_await copy.start("blockdev-backup", std::move(arguments));
    (void)co_await copy.run_until(BlockJob::Goal::ended);
    co_await copy.finish(async::after(copy_end_limit));
}

[[noreturn]] void throw_copy_failure(const Error& error) {
    if (error.code() != ErrorCode::qemu_failed) throw error;
    throw Error(
        ErrorCode::qemu_failed,
        "the moment is not held any more: what the guest overwrote could not be kept, for lack of room "
        "or of time; or a disk cannot be read: {}",
        error.what());
}

}  // namespace

Json pushed_image_node(const std::string& name, const std::string& path) {
    qmp::NodeOptions options;
    options.discard = true;
    // Zeroes of the disk, also those that a program has written.
    options.detect_zeroes = qmp::DetectZeroes::unmap;
    Json file = qmp::file_node(name + "f", path, qmp::Access::read_write, options);
    Json image = qmp::format_node(name, "qcow2", std::move(file), qmp::Access::read_write, options);
    return qmp::without_backing(std::move(image));
}

async::Task<> push_disks(Engine& engine, JobPtr job, BackupNodes& nodes, std::vector<PushedFile> files,
                         bool compress) {
    std::uint64_t total = 0;
    std::uint64_t done = 0;
    for (std::size_t disk = 0; disk < files.size(); ++disk) total += nodes.scratch(disk).size;
    for (std::size_t disk = 0; disk < files.size(); ++disk) {
        const PushedFile file = files[disk];
        auto make = [file, model = nodes.scratch(disk)] {
            make_pushed_file(file, model.size, model.pool, model.model);
        };
        co_await engine.files().run(std::move(make));
        Json target = pushed_image_node(nodes.target(disk), file.part_path());
        co_await nodes.add_target(std::move(target));
        Json arguments = nodes.copy_arguments(disk);
        if (compress) arguments["compress"] = true;
        std::exception_ptr failure;
        BlockJob copy(engine, job, nodes.session(), nodes.copy_job(disk), file.part_path());
        copy.count(done, total);
        co_await async::keep_failure(run_copy(copy, std::move(arguments)), failure);
        if (failure) throw_copy_failure(to_error(failure));
        co_await nodes.end_filter(disk);
        for (const char which : {'b', 'a'}) {
            // Not compressed: QEMU writes compressed clusters once only.
            BlockJob patch(engine, job, nodes.session(), nodes.patch_job(disk), file.part_path());
            patch.count(done + nodes.scratch(disk).size, total);
            co_await run_copy(patch, nodes.patch_arguments(disk, which));
        }
        co_await nodes.remove_target(disk);
        auto flush = [file] { flush_image_file(NewFile(file.directory, file.part)); };
        co_await engine.files().run(std::move(flush));
        done += nodes.scratch(disk).size;
    }
}

}  // namespace volchain::storage
