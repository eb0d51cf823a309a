// SPDX-License-Identifier: MIT
#include "daemon/publisher.h"

#include <boost/asio/post.hpp>

#include "storage/records/preview_state.h"

namespace volchain::daemon {

using storage::ObjectId;
using storage::ObjectKind;

Publisher::Publisher(bus::Connection& connection, storage::Engine& engine, bus::Gate& gate)
    : connection_(connection),
      engine_(engine),
      manager_(engine, connection),
      pools_(engine),
      disks_(engine),
      volumes_(engine, connection),
      vms_(engine, connection),
      snapshots_(engine, connection),
      exports_(engine),
      backups_(engine),
      bound_exports_(connection, engine),
      schedules_(engine),
      jobs_(engine),
      objects_(connection, root_path, gate) {}

template <typename Object>
void Publisher::publish_family(ObjectKind kind, Object& object) {
    auto exists = [this, kind](Uuid id) { return engine_.catalog().has({kind, id}); };
    auto list = [this, kind] { return engine_.catalog().ids(kind); };
    objects_.add_family(bus::Objects::Family(path_prefix(kind), exists, list), {object.table()});
    for (const Uuid& id : engine_.catalog().ids(kind)) {
        objects_.remember(object_path(kind, id).str());
        known_[{kind, id}] = related({kind, id});
    }
}

void Publisher::publish() {
    objects_.add(root_path, manager_.table());
    publish_family(ObjectKind::pool, pools_);
    publish_family(ObjectKind::disk, disks_);
    publish_family(ObjectKind::volume, volumes_);
    publish_family(ObjectKind::vm, vms_);
    publish_family(ObjectKind::snapshot, snapshots_);
    publish_family(ObjectKind::exported, exports_);
    publish_family(ObjectKind::backup, backups_);
    publish_family(ObjectKind::schedule, schedules_);
    publish_family(ObjectKind::job, jobs_);
    for (const ObjectKind kind : {ObjectKind::exported, ObjectKind::backup})
        for (const Uuid& id : engine_.catalog().ids(kind)) bound_exports_.follow({kind, id});
    for (const auto& [id, job] : engine_.catalog().jobs())
        if (storage::finished(job.state)) told_finished_.insert(id);
    objects_.before_replies([this] { flush(); });
    engine_.observe(*this);
}

void Publisher::object_changed(ObjectId object, storage::ChangeKind) {
    // One commit changes several records one after the other; only when all are there can their properties be read.
    if (dirty_.empty()) {
        async::asio::post(connection_.executor(), [this, alive = std::weak_ptr(alive_)] {
            if (!alive.expired()) flush_or_log();
        });
    }
    dirty_.emplace(object.kind, object.id);
}

/// What cannot be told must not end the daemon.
void Publisher::flush_or_log() noexcept {
    try {
        flush();
    } catch (...) {
        log().error("changes were not told on the bus: {}", to_error(std::current_exception()).what());
    }
}

void Publisher::flush() {
    std::set<Key> concerned;
    std::set<Uuid> jobs;
    for (const Key& key : std::exchange(dirty_, {})) {
        const std::string path = object_path(key.first, key.second).str();
        const auto before = known_.find(key);
        const bool exists = engine_.catalog().has({key.first, key.second});
        if (before != known_.end()) concerned.insert(before->second.begin(), before->second.end());
        if (before != known_.end() && !exists) {
            objects_.removed(path);
            known_.erase(before);
            told_finished_.erase(key.second);
        }
        if (key.first == ObjectKind::exported || key.first == ObjectKind::backup)
            bound_exports_.follow({key.first, key.second});
        if (!exists) continue;
        if (before == known_.end())
            objects_.added(path);
        else
            concerned.insert(key);
        if (key.first == ObjectKind::job) jobs.insert(key.second);
        std::set<Key> now = related(key);
        concerned.insert(now.begin(), now.end());
        known_[key] = std::move(now);
    }
    for (const auto& [kind, id] : concerned)
        if (known_.contains({kind, id})) objects_.compare(object_path(kind, id).str());
    for (const Uuid& job : jobs) tell_finished(job);
}

/// The objects that show something of this one among their own properties.
std::set<Publisher::Key> Publisher::related(const Key& key) const {
    const storage::Catalog& catalog = engine_.catalog();
    const auto& [kind, id] = key;
    std::set<Key> all;
    const auto add = [&](ObjectKind other, const Uuid& other_id) {
        if (other_id) all.emplace(other, other_id);
    };
    switch (kind) {
        case ObjectKind::disk:
            add(ObjectKind::vm, catalog.disk(id).vm);
            add(ObjectKind::volume, catalog.disk(id).active);
            break;
        case ObjectKind::volume:
            add(ObjectKind::disk, catalog.volume(id).disk);
            // Whose checkpoints are in its image.
            if (catalog.has({ObjectKind::disk, catalog.volume(id).disk}))
                add(ObjectKind::vm, catalog.disk(catalog.volume(id).disk).vm);
            add(ObjectKind::volume, catalog.backing(id));
            break;
        case ObjectKind::vm:
            add(ObjectKind::snapshot, catalog.vm(id).current_snapshot);
            for (const Uuid& snapshot : storage::shown_snapshots(catalog, id))
                add(ObjectKind::snapshot, snapshot);
            for (const Uuid& disk : catalog.disks_of_vm(id)) {
                add(ObjectKind::disk, disk);
                add(ObjectKind::volume, catalog.disk(disk).active);
            }
            break;
        case ObjectKind::snapshot:
            add(ObjectKind::vm, catalog.snapshot(id).vm);
            add(ObjectKind::snapshot, catalog.snapshot(id).parent);
            add(ObjectKind::schedule, catalog.snapshot(id).schedule);
            break;
        case ObjectKind::schedule:
            add(ObjectKind::vm, catalog.schedule(id).vm);
            for (const auto& [snapshot, made] : catalog.snapshots())
                if (made.schedule == id) add(ObjectKind::snapshot, snapshot);
            break;
        case ObjectKind::pool:
        case ObjectKind::exported:
        case ObjectKind::backup:
        case ObjectKind::job:
            break;
    }
    return all;
}

void Publisher::tell_finished(const Uuid& id) {
    const storage::JobRecord& job = engine_.catalog().job(id);
    if (!storage::finished(job.state) || !told_finished_.insert(id).second) return;
    objects_.emit(root_path, manager_interface, "JobFinished", object_path(ObjectKind::job, id), job.kind,
                  object_path(job.subject.kind, job.subject.id), std::string(word(job.state)));
}

}  // namespace volchain::daemon
