// SPDX-License-Identifier: MIT
//
// Migration: what QEMU calls a migration, to a file and from one: the machine's RAM and the state of its devices. The
// operation that wants it owns this and follows it by events; when it goes, the migration runs on in QEMU, and can be taken
// up again in a new session, as there is only one at a time.
//
//     Migration migration(session);
//     co_await migration.pass(std::move(file), soon);
//     co_await migration.start(soon);
//     while ((info = co_await migration.query(soon)).under_way()) co_await migration.wait(a_while);
//
// The file goes to QEMU as a descriptor: it needs no right to open it, and nothing is run in a shell. QEMU 7.2 takes it by
// "getfd" and "fd:"; where "file:" is known (8.2), it goes by "add-fd", as "fd:" is for sockets alone from 11.0 on.
//
// It does not stop or resume the guest, and does not know what the file is for.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "async/condition.h"
#include "qmp/session.h"

namespace volchain::qmp {

/// MigrationInfo (query-migrate).
struct MigrationInfo {
    std::string status;  ///< MigrationStatus; empty: there was none in this process
    std::uint64_t remaining = 0;
    std::uint64_t total = 0;
    std::uint64_t pages = 0;           ///< of RAM that were written, those of zeroes among them
    std::string error;                 ///< of one that failed
    std::vector<std::string> blocked;  ///< why this machine cannot be migrated; empty: it can
    std::optional<std::uint64_t> downtime_ms;

    [[nodiscard]] static MigrationInfo parse(const Json& answer);
    [[nodiscard]] bool under_way() const noexcept;
};

/// Of a QEMU: what it has set for its migrations, by name.
using Capabilities = std::map<std::string, bool>;
[[nodiscard]] async::Task<Capabilities> read_capabilities(std::shared_ptr<Session> session,
                                                          async::Deadline deadline);
async::Task<> set_capabilities(std::shared_ptr<Session> session, Capabilities wanted,
                               async::Deadline deadline);

class Migration {
  public:
    /// Follows the migration, and whether the guest runs, from now on.
    explicit Migration(std::shared_ptr<Session> session);
    Migration(const Migration&) = delete;
    Migration& operator=(const Migration&) = delete;

    async::Task<MigrationInfo> query(async::Deadline deadline);

    /// Gives QEMU the file that is meant; one that it was given before is forgotten.
    async::Task<> pass(UniqueFd file, async::Deadline deadline);
    /// Takes it back, where QEMU has not used it. Nothing happens where it has none.
    async::Task<> take_back(async::Deadline deadline);
    /// Begins to write into the file. What is written is as the capabilities are at that moment.
    async::Task<> start(async::Deadline deadline);
    /// Begins to read from it: of a QEMU that was started with "-incoming defer". That ends where it cannot read it.
    async::Task<> start_incoming(async::Deadline deadline);
    async::Task<> cancel(async::Deadline deadline);

    /// Returns when something has happened, the session is closed, or at the deadline.
    async::Task<> wait(async::Deadline deadline);

    /// The last status that an event told; empty: none did (capability "events").
    [[nodiscard]] const std::string& status() const noexcept { return status_; }
    /// When the guest was stopped, and resumed after that, by QEMU's clock; forget_stops(): before now does not count.
    [[nodiscard]] std::optional<Timestamp> stopped() const noexcept { return stopped_; }
    [[nodiscard]] std::optional<Timestamp> resumed() const noexcept { return resumed_; }
    void forget_stops() noexcept {
        stopped_.reset();
        resumed_.reset();
    }

  private:
    void take(const Event& event);
    [[nodiscard]] async::Task<bool> takes_fd_sets(async::Deadline deadline);
    async::Task<> close_named(async::Deadline deadline);
    async::Task<> run(std::string command, async::Deadline deadline);

    std::shared_ptr<Session> session_;
    std::string uri_;
    std::string status_;
    std::optional<Timestamp> stopped_;
    std::optional<Timestamp> resumed_;
    std::uint64_t happened_ = 0;
    std::uint64_t seen_ = 0;
    async::Condition changed_;
    Subscription subscription_;
};

}  // namespace volchain::qmp
