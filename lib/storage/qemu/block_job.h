// SPDX-License-Identifier: MIT
//
// BlockJob: a block job of a QEMU or a storage daemon (commit, stream, mirror, backup) at work for one of our jobs: started or
// taken up again after a crash, followed with progress, paused, limited and cancelled as the user asks. Where it stops
// itself because the file system is full, it waits for room and goes on. The operation owns it; the Job it works for
// outlives it.
//
// It judges nothing: whether the chain is what it should be afterwards is the operation's question to the block graph.
#pragma once

#include <memory>
#include <string>

#include "qmp/job.h"
#include "storage/engine.h"

namespace volchain::storage {

class BlockJob {
  public:
    enum class Goal { ready, pending, ended };

    /// `id`: the same whenever this piece of work is begun anew. `written`: the image that is written to, for the room
    /// in its file system.
    BlockJob(Engine& engine, JobPtr job, std::shared_ptr<qmp::Session> session, std::string id,
             std::string written);

    /// Takes up the job that an earlier life of the daemon started. False where there is none (any more).
    async::Task<bool> take_up();
    /// `done_before`, `total`: bytes, of the whole operation.
    async::Task<> start(std::string command, Json arguments);
    void count(std::uint64_t done_before, std::uint64_t total) {
        done_before_ = done_before;
        total_ = total;
    }

    /// True when the goal is reached; false when the job has ended before. "Ready" is also true of a job that has been
    /// ready for some seconds and is only kept from having copied everything by a guest that writes on. Busy where a guest
    /// keeps it from ever being ready, as it writes faster than can be copied. A cancel breaks the job off and throws
    /// Cancelled.
    async::Task<bool> run_until(Goal goal);
    async::Task<> complete();
    async::Task<> finalize();
    /// All of a copy, from start to end: blockdev-mirror of one node into another.
    async::Task<> mirror(std::string source, std::string target, std::string sync);
    /// The end: dismissed, and what made it fail is thrown.
    async::Task<> finish(async::Deadline deadline);
    /// Breaks it off, and waits until it has ended. Never throws for a job that has.
    async::Task<> break_off();

    [[nodiscard]] qmp::JobStatus status() const noexcept { return qmp_job_.status(); }

  private:
    [[nodiscard]] async::Deadline soon() const { return async::after(engine_.settings().command_timeout); }
    [[nodiscard]] async::Task<bool> reach(Goal goal, async::Deadline deadline);
    [[nodiscard]] async::Task<bool> look(Goal goal);
    void watch_guest(const qmp::JobInfo& info);
    async::Task<> grant_wishes();
    async::Task<> wait_for_room(Error why);
    [[nodiscard]] async::Task<std::uint64_t> room();

    Engine& engine_;
    JobPtr job_;
    qmp::Job qmp_job_;
    std::string written_;
    std::uint64_t done_before_ = 0;
    std::uint64_t total_ = 0;
    std::uint64_t speed_ = 0;  ///< that QEMU was told
    bool paused_ = false;      ///< at the user's wish
    unsigned ready_looks_ = 0;
    std::uint64_t first_pass_ = 0;  ///< bytes that there were to copy when it began
    std::uint64_t least_left_ = 0;
    async::Clock::time_point least_left_since_{};
};

}  // namespace volchain::storage
