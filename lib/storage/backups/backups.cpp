// SPDX-License-Identifier: MIT
#include "storage/backups/backups.h"

#include "base/text.h"
#include "storage/backups/backup_nodes.h"
#include "storage/backups/end_backup.h"
#include "storage/engine.h"
#include "storage/exports/export_device.h"

namespace volchain::storage {
namespace {

constexpr auto health_interval = std::chrono::seconds(2);
constexpr std::chrono::seconds abort_again{5};  // and each time twice as long, until
constexpr std::chrono::seconds abort_seldom{300};
constexpr auto fail_again = std::chrono::milliseconds(500);

}  // namespace

Backups::Backups(Engine& engine) : engine_(engine), tasks_(engine.executor()) {}

void Backups::start() {
    for (const Uuid& id : engine_.catalog().ids(ObjectKind::backup))
        if (ready(id)) spawn(find(id), "finding a backup again");
    spawn(watch(), "asking whether backups still hold their moments");
}

async::Task<> Backups::stop() {
    stopping_ = true;
    co_await tasks_.stop();
}

void Backups::spawn(async::Task<> task, std::string what) noexcept {
    try {
        if (!stopping_) tasks_.spawn(std::move(task), std::move(what));
    } catch (const std::exception& error) {
        log().notice("{}", error.what());
    }
}

/// Ready, and nobody works on it.
bool Backups::ready(const Uuid& id) const {
    const ObjectId object{ObjectKind::backup, id};
    const Catalog& catalog = engine_.catalog();
    return catalog.has(object) && catalog.backup(id).state == BackupState::ready &&
           !engine_.locks().held(object);
}

void Backups::vm_changed(const Uuid& vm) {
    for (const auto& [id, record] : engine_.catalog().backups())
        if (record.vm == vm && ready(id)) spawn(find(id), "looking for the QEMU of a backup");
}

async::Task<> Backups::find(Uuid id) {
    if (!ready(id)) co_return;
    const BackupRecord record = engine_.catalog().backup(id);
    if (record.restored || record.source == BackupSource::snapshot) co_return;
    if (record.source == BackupSource::running) co_return co_await find_in_vm(id);
    if (engine_.vm(record.vm).live()) co_await fail(id, "the VM was started, and may write to its disks");
}

/// Where nobody can tell whether its QEMU is there, it is looked for again when that is known.
async::Task<> Backups::find_in_vm(Uuid id) {
    const BackupRecord record = engine_.catalog().backup(id);
    Vm& vm = engine_.vm(record.vm);
    if (vm.down()) co_return co_await fail(id, "the VM's QEMU has ended");
    if (!vm.live()) co_return;
    if (appliance_process(engine_, record.vm).mark != record.qemu)
        co_return co_await fail(id, "the VM was started anew");
    BackupNodes nodes(engine_, vm.session(), record);
    bool there = true;
    std::exception_ptr unknown;
    co_await async::keep_result(nodes.there(), there, unknown);
    if (!unknown && !there) co_await fail(id, "somebody has taken its filters out of the VM's QEMU");
}

async::Task<> Backups::watch() {
    while (true) {
        co_await async::sleep_until(async::after(health_interval));
        for (const Uuid& id : engine_.catalog().ids(ObjectKind::backup))
            if (ready(id)) co_await look_at(id);
    }
}

async::Task<> Backups::look_at(Uuid id) {
    const BackupRecord record = engine_.catalog().backup(id);
    if (record.restored) co_return;
    std::exception_ptr failure;
    co_await async::keep_failure(check_moment(engine_, record), failure);
    if (!failure) co_return;
    const Error error = to_error(failure);
    if (error.code() == ErrorCode::cancelled) throw error;
    if (error.code() == ErrorCode::qemu_failed) co_return co_await fail(id, error.what());
    log().with("VOLCHAIN_BACKUP", id.str()).debug("{}", error.what());
}

void Backups::part_lost(const Uuid& id, std::string why) {
    spawn(fail_in_the_end(id, std::move(why)), "a backup of which a part is lost");
}

/// Who works on it just now is soon done.
async::Task<> Backups::fail_in_the_end(Uuid id, std::string why) {
    const ObjectId object{ObjectKind::backup, id};
    while (engine_.catalog().has(object) && engine_.catalog().backup(id).state != BackupState::failed) {
        if (ready(id)) co_return co_await fail(id, std::move(why));
        co_await async::sleep_until(async::after(fail_again));
    }
}

async::Task<> Backups::fail(Uuid id, std::string why) {
    if (!ready(id)) co_return;
    log()
        .with("VOLCHAIN_BACKUP", id.str())
        .warning("{} has failed: {}", engine_.catalog().describe({ObjectKind::backup, id}), why);
    const std::uint32_t owner = engine_.catalog().backup(id).owner_uid;
    std::exception_ptr failure;
    co_await async::keep_failure(fail_backup(engine_, id, std::move(why), owner), failure);
    if (failure) log().notice("{}", to_error(failure).what());
}

void Backups::abort(const Uuid& id, std::string why) {
    if (!aborted_.insert(id).second) return;
    spawn(abort_in_the_end(id, std::move(why)), "aborting a backup");
}

async::Task<> Backups::abort_in_the_end(Uuid id, std::string why) {
    const ObjectId object{ObjectKind::backup, id};
    std::chrono::seconds pause = abort_again;
    while (engine_.catalog().has(object)) {
        std::exception_ptr failure;
        if (!engine_.locks().held(object)) {
            log().with("VOLCHAIN_BACKUP", id.str()).info("backup {} is aborted: {}", id.str(), why);
            const std::uint32_t owner = engine_.catalog().backup(id).owner_uid;
            co_await async::keep_failure(abort_backup(engine_, id, owner), failure);
        }
        co_await async::sleep_until(async::after(pause));
        pause = std::min(2 * pause, abort_seldom);
    }
    aborted_.erase(id);
}

}  // namespace volchain::storage
