// SPDX-License-Identifier: MIT
#include "storage/checks/mending.h"

#include "qmp/node.h"
#include "storage/checks/image_check.h"
#include "storage/checks/stray_files.h"
#include "storage/images/doomed_files.h"
#include "storage/images/volume_lock.h"
#include "storage/pools/named_files.h"
#include "storage/qemu/helper.h"
#include "storage/vms/live_chain.h"

namespace volchain::storage {
namespace {

/// A node that is in use after all is left alone.
constexpr auto delete_node_limit = std::chrono::seconds(2);

}  // namespace

async::Task<> Mending::mend(Finding finding) {
    switch (finding.remedy) {
        case Remedy::none:
            co_return;
        case Remedy::free_leaks:
            co_return co_await free_leaks(engine_, finding.volume);
        case Remedy::remove_bitmap:
            co_return co_await remove_bitmap(finding.volume, finding.what);
        case Remedy::unlink_file:
            co_return co_await unlink_stray_file(engine_, view_, finding.path);
        case Remedy::drop_volume:
            co_return co_await drop_volume(finding.volume);
        case Remedy::forget_volume:
            co_return co_await forget_volume(finding.volume);
        case Remedy::clear_mark:
            co_return co_await clear_mark(finding.volume);
        case Remedy::forget_former:
            co_return co_await forget_former();
        case Remedy::fail_snapshot:
            co_return co_await fail_snapshot(Uuid::parse(finding.what).value_or(Uuid{}));
        case Remedy::delete_node:
            co_return co_await delete_node(finding.what);
    }
}

/// With the manifest, which tells of the same.
async::Task<> Mending::commit(Changes changes) {
    if (vm()) changes.put(ManifestStale{vm(), true});
    co_await engine_.catalog().commit(std::move(changes), Durability::power);
    engine_.write_manifests();
}

// --- bitmaps -----------------------------------------------------------------------------------------------

async::Task<> Mending::remove_bitmap(Uuid volume, std::string bitmap) {
    const qmp::Node* const node = view_.qemu.layer(catalog().path(catalog().volume(volume)));
    if (node == nullptr) {
        co_await remove_bitmap_offline(volume, bitmap);
    } else {
        engine_.vm(vm()).check_manager(catalog().vm(vm()));
        Json arguments;
        arguments["node"] = node->name;
        arguments["name"] = std::move(bitmap);
        const std::shared_ptr<qmp::Session> session = engine_.vm(vm()).session();
        (void)co_await session->execute("block-dirty-bitmap-remove", std::move(arguments), soon());
        co_await engine_.vm(vm()).read_disks();
    }
    co_await engine_.inspect_volume(volume);
}

/// A storage daemon locks the image: InUse where a process has it open.
async::Task<> Mending::remove_bitmap_offline(Uuid volume, std::string bitmap) {
    const std::string path = catalog().path(catalog().volume(volume));
    const auto helper = co_await start_storage_daemon(engine_, path);
    std::exception_ptr failure;
    co_await async::keep_failure(remove_bitmap_in(helper->session(), path, std::move(bitmap)), failure);
    // In order also where it failed: what else there is of bitmaps is written when it closes the image.
    const bool clean = co_await helper->stop(soon());
    if (failure) std::rethrow_exception(failure);
    if (!clean) throw Error(ErrorCode::qemu_failed, "the storage daemon did not end in order");
}

async::Task<> Mending::remove_bitmap_in(std::shared_ptr<qmp::Session> session, std::string path,
                                        std::string bitmap) {
    const qmp::NodeOptions plain;
    Json file = qmp::file_node("file", path, qmp::Access::read_write, plain);
    Json node = qmp::without_backing(
        qmp::format_node("image", "qcow2", std::move(file), qmp::Access::read_write, plain));
    (void)co_await session->execute("blockdev-add", std::move(node), soon());
    Json arguments;
    arguments["node"] = "image";
    arguments["name"] = std::move(bitmap);
    (void)co_await session->execute("block-dirty-bitmap-remove", std::move(arguments), soon());
}

// --- volumes -----------------------------------------------------------------------------------------------

/// A leftover on which nothing stands any more. After a crash between the commit and the unlink, the file is a stray one
/// that was given up.
async::Task<> Mending::drop_volume(Uuid volume) {
    co_await engine_.inspect_volumes(catalog().ids(ObjectKind::volume));
    check_removable(engine_, volume, {});
    co_await check_no_header_names(engine_, volume);
    std::optional<qmp::ImageLock> lock = co_await lock_if_there(engine_, volume);
    check_removable(engine_, volume, {});
    const VolumeRecord record = catalog().volume(volume);
    const std::string pool = catalog().pool(record.pool).path;
    auto look = [pool, file = record.file] { return unwanted_file(pool, file); };
    UnwantedFile file = co_await engine_.files().run(std::move(look));
    Changes changes;
    changes.put(std::move(file)).remove(ObjectKind::volume, volume);
    co_await commit(std::move(changes));
    lock.reset();  // it is taken again for the unlink
    DoomedFiles doomed;
    doomed.add(pool, record.file);
    co_await doomed.unlink_all(engine_);
}

async::Task<> Mending::forget_volume(Uuid volume) {
    co_await engine_.inspect_volume(volume);
    if (catalog().facts(volume).state != VolumeState::missing)
        throw Error(ErrorCode::in_use, "its file is there now");
    check_removable(engine_, volume, {});
    Changes changes;
    changes.remove(ObjectKind::volume, volume);
    co_await commit(std::move(changes));
}

async::Task<> Mending::clear_mark(Uuid volume) {
    VolumeRecord record = catalog().volume(volume);
    record.mark = VolumeMark::none;
    Changes changes;
    changes.put(std::move(record));
    co_await commit(std::move(changes));
}

// --- other records, QEMU -----------------------------------------------------------------------------------

async::Task<> Mending::forget_former() {
    DiskRecord disk = catalog().disk(view_.disk);
    disk.former = Uuid{};
    Changes changes;
    changes.put(std::move(disk));
    co_await commit(std::move(changes));
}

async::Task<> Mending::fail_snapshot(Uuid snapshot) {
    SnapshotRecord record = catalog().snapshot(snapshot);
    record.status = SnapshotStatus::failed;
    Changes changes;
    if (record.vm) changes.put(ManifestStale{record.vm, true});
    changes.put(std::move(record));
    co_await commit(std::move(changes));
}

async::Task<> Mending::delete_node(std::string node) {
    engine_.vm(vm()).check_manager(catalog().vm(vm()));
    const std::shared_ptr<qmp::Session> session = engine_.vm(vm()).session();
    std::vector<std::string> nodes = nodes_below(view_.qemu.graph, node);
    co_await remove_nodes(session, std::move(nodes), async::after(delete_node_limit));
}

}  // namespace volchain::storage
