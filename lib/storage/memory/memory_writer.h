// SPDX-License-Identifier: MIT
//
// MemoryWriter: writes the memory of a running VM into a file of its snapshot, from the moment at which the guest is stopped
// for the switch of its disks. The operation owns it; what it has changed in QEMU, and that it has stopped the guest, is in
// the plan before it is done.
//
//     look()     what QEMU has set for migrations, to be put back
//     prepare()  the file, with its room, goes to QEMU, and the capability "background-snapshot" is set, which is the check whether QEMU,
//                kernel and guest can do it
//     stop()     the guest stands still; here the disks are switched
//     save()     "migrate": QEMU takes the state of the devices, protects the RAM against writing, and lets the guest run on
//     write()    until all of RAM is in the file
//
// Where it cannot be done in the background, and where the guest was not running anyway (QEMU would let it run), the guest
// stands still until all is written; then it runs again, or stands still as it did.
//
// What is written in the background is not broken off once it has begun: QEMU 7.2 leaves the RAM protected then, and the
// guest hangs at its next write to it (its migration thread calls ram_write_tracking_stop() only where it completes). So the
// room for it is reserved beforehand, and whoever does not want it any more waits for its end.
//
// Whatever goes wrong from prepare() on: settle() ends what goes on in QEMU, lets the guest run that was stopped here, and puts
// QEMU back to what it was; also in a restarted daemon.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "qmp/migration.h"
#include "storage/engine.h"

namespace volchain::storage {

/// Whether this VM's memory can be kept at all, before anything is made: Unsupported, with what stands in the way, where it
/// cannot; Busy where a migration is under way. How many bytes it takes at most.
[[nodiscard]] async::Task<std::uint64_t> check_memory(Engine& engine, Uuid vm);

class MemoryWriter {
  public:
    /// `pool` and `file`: where the memory goes; the file is there when prepare() is called.
    MemoryWriter(Engine& engine, JobPtr job, const Uuid& vm, std::string pool, std::string file);
    [[nodiscard]] Json plan() const;
    void take_plan(const JsonReader& plan);

    async::Task<> look();
    async::Task<> prepare();
    async::Task<> stop();
    async::Task<> save();
    async::Task<> write();
    /// Waits until a QEMU that cannot be reached is back or gone, but not beyond `end`. Where QEMU refuses to let the guest run,
    /// the log says so.
    async::Task<> settle(async::Deadline end);

    /// Whether the guest runs on while its memory is written. Known after stop().
    [[nodiscard]] bool in_background() const noexcept { return background_; }
    /// Whether the guest ran when it was stopped. Known after stop().
    [[nodiscard]] bool guest_ran() const noexcept { return ran_; }
    /// Says in the plan whether somebody has to let the guest run again.
    void note_halted(bool halted) noexcept { halted_ = halted; }
    /// "memory", how it was written; "pause-usec", how long the guest stood still; "downtime-usec", what QEMU says of that.
    void report(Json& result) const;

  private:
    [[nodiscard]] std::shared_ptr<qmp::Session> session() const;
    [[nodiscard]] async::Deadline soon() const;
    async::Task<> try_background();
    async::Task<> set_bandwidth(std::uint64_t bytes_per_second);
    async::Task<> until_guest_runs();
    [[nodiscard]] async::Task<bool> look_at_progress();
    void take_progress(const qmp::MigrationInfo& info);
    [[noreturn]] void fail_to_write(const std::string& error) const;
    async::Task<> let_guest_run();
    async::Task<> put_back();
    async::Task<> settle_once();
    async::Task<> end_migration();

    Engine& engine_;
    JobPtr job_;
    Uuid vm_;
    std::string pool_;
    std::string file_;
    std::optional<qmp::Migration> migration_;
    qmp::Capabilities before_;                       ///< of those that are changed here
    std::optional<std::uint64_t> bandwidth_before_;  ///< bytes a second
    std::string why_not_;                            ///< in the background
    bool background_ = false;
    bool ran_ = false;
    bool halted_ = false;     ///< the guest was stopped here, or is about to be, and is to run again
    std::uint64_t room_ = 0;  ///< bytes that it takes at most
    std::uint64_t position_ = 0;
    async::Clock::time_point moved_{};
    std::optional<std::uint64_t> downtime_ms_;
};

}  // namespace volchain::storage
