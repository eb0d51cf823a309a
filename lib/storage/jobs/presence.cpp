// SPDX-License-Identifier: MIT
#include "storage/jobs/presence.h"

#include "base/log.h"

namespace volchain::storage {

async::Task<bool> ready_to_work(Engine& engine, Uuid vm) {
    if (vm.nil()) co_return false;
    co_return co_await engine.ready_to_work(vm);
}

async::Task<bool> runs_or_is_gone(Engine& engine, Uuid vm) {
    constexpr auto look_again = std::chrono::seconds(30);
    if (vm.nil()) co_return false;
    while (true) {
        std::exception_ptr failure;
        const auto soon = async::after(engine.settings().greeting_timeout * 2);
        co_await async::keep_failure(engine.vm(vm).look_now(soon), failure);
        if (engine.vm(vm).live()) {
            failure = nullptr;
            co_await async::keep_failure(engine.vm(vm).read_disks(), failure);
            if (!failure) co_return true;
            log().warning("cannot find out yet how far an operation got: {}", to_error(failure).what());
        }
        if (engine.vm(vm).down()) co_return false;
        // Neither reachable nor gone: a QEMU that hangs, or whose monitor somebody else has.
        co_await async::keep_failure(engine.vm(vm).wait_changed(async::after(look_again)), failure);
    }
}

void refuse_moved(const Catalog& catalog, const Uuid& disk, const Uuid& vm) {
    if (catalog.disk(disk).vm == vm) return;
    throw Error(ErrorCode::busy, "{} has just been attached or detached; ask again",
                catalog.describe({ObjectKind::disk, disk}));
}

LiveDisk& live_disk(Engine& engine, const Uuid& disk) {
    const Catalog& catalog = engine.catalog();
    const DiskRecord& record = catalog.disk(disk);
    LiveDisk* const found = engine.vm(record.vm).find_disk(catalog.path(catalog.volume(record.active)));
    if (found != nullptr) return *found;
    throw Error(ErrorCode::not_running,
                "{}: {} is running but does not have it, or runs on another volume of it",
                catalog.describe({ObjectKind::disk, disk}), catalog.describe({ObjectKind::vm, record.vm}));
}

std::vector<ObjectId> disk_and_vm(const Uuid& disk, const Uuid& vm) {
    std::vector<ObjectId> objects{{ObjectKind::disk, disk}};
    if (vm) objects.push_back({ObjectKind::vm, vm});
    return objects;
}

}  // namespace volchain::storage
