// SPDX-License-Identifier: MIT
#include "storage/backups/restored_image.h"

#include "base/text.h"
#include "qmp/node.h"
#include "storage/qemu/helper.h"

namespace volchain::storage {
namespace {

/// It reads the tables of the image, not its data (image_check.cpp).
constexpr auto restored_check_limit = std::chrono::hours(4);
/// What was written is in the host's cache by then, and was flushed from that.
constexpr auto restored_flush_limit = std::chrono::minutes(10);
constexpr const char* restored_node = "restored";
constexpr const char* restored_file_node = "restored-f";

Json image_node(const RestoredDisk& disk, qmp::Access access) {
    qmp::NodeOptions options;
    options.discard = disk.sparse;
    Json node = qmp::format_node(restored_node, word(disk.format), restored_file_node, access, options);
    return disk.format == VolumeFormat::qcow2 ? qmp::without_backing(std::move(node)) : node;
}

async::Task<> check_inside(Engine& engine, NewFile file) {
    std::vector<ImageAccess> images;
    images.emplace_back(file.path(), false);
    const qmp::QemuImg qemu_img = co_await helper_qemu_img(engine, std::move(images));
    const Json report = co_await qemu_img.check(file.path(), "qcow2", async::after(restored_check_limit));
    const JsonReader reader(report, "report of qemu-img check", ErrorCode::qemu_failed);
    const std::uint64_t corruptions = reader.u64_or("corruptions", 0);
    if (corruptions > 0)
        throw Error(ErrorCode::corrupt_image, "{} is damaged in {} places (qemu-img check)",
                    quote(file.path()), corruptions);
}

}  // namespace

NewFile file_of_restored(const Catalog& catalog, const RestoredDisk& disk) {
    return {catalog.pool(disk.pool).path, disk.file};
}

async::Task<std::string> open_restored_image(Engine& engine, std::shared_ptr<qmp::Session> session,
                                             RestoredDisk disk) {
    const async::Deadline soon = async::after(engine.settings().command_timeout);
    qmp::NodeOptions options;
    options.discard = disk.sparse;
    const NewFile place = file_of_restored(engine.catalog(), disk);
    Json file = qmp::file_node(restored_file_node, place.path(), qmp::Access::read_write, options);
    (void)co_await session->execute("blockdev-add", std::move(file), soon);
    Json image = image_node(disk, qmp::Access::read_write);
    (void)co_await session->execute("blockdev-add", std::move(image), soon);
    co_return restored_node;
}

async::Task<> make_restored_read_only(Engine& engine, std::shared_ptr<qmp::Session> session,
                                      RestoredDisk disk) {
    // First what takes its time, with nobody waiting for QEMU meanwhile.
    auto flush = [file = file_of_restored(engine.catalog(), disk)] { flush_image_file(file); };
    co_await engine.files().run(std::move(flush));
    Json arguments;
    arguments["options"] = Json::array();
    arguments["options"].push_back(image_node(disk, qmp::Access::read_only));
    (void)co_await session->execute("blockdev-reopen", std::move(arguments),
                                    async::after(restored_flush_limit));
    auto flush_again = [file = file_of_restored(engine.catalog(), disk)] { flush_image_file(file); };
    co_await engine.files().run(std::move(flush_again));
}

async::Task<VolumeFacts> check_restored_image(Engine& engine, RestoredDisk disk) {
    const NewFile file = file_of_restored(engine.catalog(), disk);
    if (disk.format == VolumeFormat::qcow2) co_await check_inside(engine, file);
    auto look = [file, format = disk.format] { return inspect_image(file.pool, file.file, format); };
    VolumeFacts facts = co_await engine.files().run(std::move(look));
    if (facts.state != VolumeState::ok || facts.size != disk.size || facts.backing)
        throw Error(ErrorCode::corrupt_image, "{} is not the image that was made for it: {}",
                    quote(file.path()), facts.problem);
    co_return facts;
}

}  // namespace volchain::storage
