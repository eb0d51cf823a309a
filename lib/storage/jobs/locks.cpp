// SPDX-License-Identifier: MIT
#include "storage/jobs/locks.h"

#include "base/log.h"

namespace volchain::storage {

namespace {

/// A backup needs its disks as they are for as long as its reader takes, which is longer than any operation.
void refuse_held_by_backup(const Catalog& catalog, const ObjectId& object) {
    if (object.kind != ObjectKind::disk) return;
    const BackupRecord* const backup = catalog.backup_of_disk(object.id);
    if (backup == nullptr) return;
    throw Error(ErrorCode::busy, "{} is busy: it is being backed up by user {}; finish or abort backup {}",
                catalog.describe(object), backup->owner_uid, backup->id.str());
}

}  // namespace

void Locks::Held::release() noexcept {
    if (locks_ != nullptr) std::exchange(locks_, nullptr)->release(objects_);
    objects_.clear();
}

Locks::Held Locks::take(std::vector<ObjectId> objects, std::string holder, const Uuid& job) {
    for (const ObjectId& object : objects) {
        refuse_held_by_backup(catalog_, object);
        const auto found = held_.find(key(object));
        if (found == held_.end()) continue;
        throw Error(ErrorCode::busy, "{} is busy: {}{}; wait for its end or cancel it",
                    catalog_.describe(object), found->second.text,
                    found->second.job ? ", job " + found->second.job.str() : "");
    }
    for (const ObjectId& object : objects) held_.emplace(key(object), Holder{holder, job});
    Held held(*this, std::move(objects));
    if (watcher_)
        for (const ObjectId& object : held.objects_) watcher_(object);
    return held;
}

async::Task<Locks::Held> Locks::take_when_seen_to(ObjectId object, std::string holder,
                                                  async::Deadline deadline) {
    while (held(object) && job_holding(object).nil() && async::Clock::now() < deadline) {
        try {
            co_await released_.wait(deadline, "the release of a lock");
        } catch (const Error& error) {
            if (error.code() != ErrorCode::timeout) throw;
        }
    }
    std::vector<ObjectId> objects{object};
    co_return take(std::move(objects), std::move(holder), Uuid{});
}

void Locks::release(const std::vector<ObjectId>& objects) noexcept {
    for (const ObjectId& object : objects) held_.erase(key(object));
    released_.notify();
    if (!watcher_) return;
    for (const ObjectId& object : objects) {
        try {
            watcher_(object);
        } catch (const std::exception& error) {
            log().error("after the release of a lock: {}", error.what());
        }
    }
}

Uuid Locks::job_holding(const ObjectId& object) const {
    const auto found = held_.find(key(object));
    return found == held_.end() ? Uuid{} : found->second.job;
}

bool Locks::held(const ObjectId& object) const {
    return held_.contains(key(object));
}

}  // namespace volchain::storage
