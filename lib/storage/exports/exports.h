// SPDX-License-Identifier: MIT
//
// Exports: looks after the exports that there are: keeps the connections to their storage daemons, finds these again when
// the daemon starts, and does away with exports whose time is up, whose storage daemon has ended, or whose caller has gone.
// The Engine owns it. What an export is, its record says; making and stopping one are operations (export_volume.h,
// stop_export.h).
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "async/condition.h"
#include "async/task_group.h"
#include "qmp/storage_daemon.h"
#include "storage/records/records.h"

namespace volchain::storage {

class Engine;

class Exports {
  public:
    explicit Exports(Engine& engine);
    Exports(const Exports&) = delete;
    Exports& operator=(const Exports&) = delete;

    /// Finds the storage daemons of an earlier life again. Exports that an unfinished job holds are left to that.
    async::Task<> start();
    /// Lets go of them: they go on by themselves.
    async::Task<> stop();

    /// The connections to the storage daemons of one export, see export_process.h.
    using Daemons = std::vector<std::shared_ptr<qmp::StorageDaemon>>;
    /// Watches the storage daemons of an export from now on.
    void attend(const Uuid& id, Daemons daemons);
    /// Watches them no more, and hands over the connections.
    Daemons neglect(const Uuid& id);
    /// A VM has been started, or has ended: exports that are devices of it may have gone with it.
    void vm_changed(const Uuid& vm);
    /// The export is to go, as soon as that can be; it is tried again and again.
    void end(const Uuid& id, std::string why);
    /// An export was made.
    void look();
    /// An export was given more time. One that is to go for another reason goes all the same.
    void forgive(const Uuid& id);

    /// How many clients are connected, as the host's list of sockets says; 0 for what has no socket.
    [[nodiscard]] std::uint32_t connections(const Uuid& id);

  private:
    struct Due {
        std::string why;
        async::Deadline next_try;
        bool by_time = false;  ///< more time would help
        async::Clock::duration pause{};
    };

    [[nodiscard]] bool looked_after_by_others(const Uuid& id) const;
    async::Task<> find(Uuid id);
    async::Task<> find_device(Uuid id);
    async::Task<> watch(Uuid id, std::shared_ptr<qmp::StorageDaemon> daemon);
    async::Task<> note_lost(Uuid id, std::string why);
    async::Task<> end_those_due();
    async::Task<> try_to_end(Uuid id);
    void add_expired();
    [[nodiscard]] async::Deadline next_look() const;

    Engine& engine_;
    std::map<Uuid, Daemons> daemons_;
    std::map<Uuid, Due> due_;
    bool stopping_ = false;
    bool wanted_ = false;
    async::Condition asked_;
    /// Path of a Unix socket, or "port N" -> connections; read anew when it is old.
    std::map<std::string, std::uint32_t> census_;
    async::Deadline census_until_;
    async::TaskGroup tasks_;
};

}  // namespace volchain::storage
