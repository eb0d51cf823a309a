// SPDX-License-Identifier: MIT
//
// Publisher: shows the engine's objects on the bus and tells what changes: objects that come and go, properties whose
// values are not what they were, finished jobs. The engine says which object is concerned; what is new about it, and
// which other objects show it too (a VM its snapshots, a volume its children), is found out here, once for each turn of
// the event loop however often an object was named.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "daemon/backup_object.h"
#include "daemon/bound_exports.h"
#include "daemon/disk_object.h"
#include "daemon/export_object.h"
#include "daemon/job_object.h"
#include "daemon/manager_object.h"
#include "daemon/pool_object.h"
#include "daemon/schedule_object.h"
#include "daemon/snapshot_object.h"
#include "daemon/vm_object.h"
#include "daemon/volume_object.h"
#include "systemd/objects.h"

namespace volchain::daemon {

class Publisher final : public storage::EngineObserver {
  public:
    Publisher(bus::Connection& connection, storage::Engine& engine, bus::Gate& gate);

    /// Registers everything; before the bus name is taken.
    void publish();
    /// Ends the running calls; they are answered.
    async::Task<> stop() { return objects_.stop(); }

    [[nodiscard]] ManagerObject& manager() noexcept { return manager_; }
    [[nodiscard]] const bus::Objects& objects() const noexcept { return objects_; }

    void object_changed(storage::ObjectId object, storage::ChangeKind change) override;

  private:
    using Key = std::pair<storage::ObjectKind, Uuid>;

    template <typename Object>
    void publish_family(storage::ObjectKind kind, Object& object);
    void flush_or_log() noexcept;
    void flush();
    [[nodiscard]] std::set<Key> related(const Key& key) const;
    void tell_finished(const Uuid& job);

    bus::Connection& connection_;
    storage::Engine& engine_;
    ManagerObject manager_;
    PoolObject pools_;
    DiskObject disks_;
    VolumeObject volumes_;
    VmObject vms_;
    SnapshotObject snapshots_;
    ExportObject exports_;
    BackupObject backups_;
    BoundExports bound_exports_;
    ScheduleObject schedules_;
    JobObject jobs_;
    bus::Objects objects_;

    std::set<Key> dirty_;
    /// The objects that the bus knows of, and which others showed something of each when it was last looked at: they
    /// are looked at when it is gone, too.
    std::map<Key, std::set<Key>> known_;
    std::set<Uuid> told_finished_;
    std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace volchain::daemon
