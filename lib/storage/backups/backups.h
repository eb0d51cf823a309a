// SPDX-License-Identifier: MIT
//
// Backups: looks after the backups and restores that there are: asks whether each backup still holds its moment, finds them again
// when the daemon starts, and does away with those that do not, whose QEMU or storage daemon has ended, or whose caller has gone.
// The Engine owns it. What a backup is, its record says; making and ending one are operations (start_backup.h, restore_disk.h,
// end_backup.h, end_restore.h).
#pragma once

#include <set>
#include <string>

#include "async/task_group.h"
#include "storage/records/records.h"

namespace volchain::storage {

class Engine;

class Backups {
  public:
    explicit Backups(Engine& engine);
    Backups(const Backups&) = delete;
    Backups& operator=(const Backups&) = delete;

    /// When the VMs were looked at.
    void start();
    /// Lets go of them: they go on by themselves.
    async::Task<> stop();

    /// A VM has been started, or has ended, or its QEMU can be reached again.
    void vm_changed(const Uuid& vm);
    /// Nobody wants it any more; it is tried again and again.
    void abort(const Uuid& id, std::string why);
    /// A storage daemon that shows a part of it has ended.
    void part_lost(const Uuid& id, std::string why);

  private:
    async::Task<> watch();
    async::Task<> look_at(Uuid id);
    async::Task<> find(Uuid id);
    async::Task<> find_in_vm(Uuid id);
    async::Task<> abort_in_the_end(Uuid id, std::string why);
    async::Task<> fail_in_the_end(Uuid id, std::string why);
    async::Task<> fail(Uuid id, std::string why);
    void spawn(async::Task<> task, std::string what) noexcept;
    [[nodiscard]] bool ready(const Uuid& id) const;

    Engine& engine_;
    bool stopping_ = false;
    std::set<Uuid> aborted_;  ///< until they are gone
    async::TaskGroup tasks_;
};

}  // namespace volchain::storage
