// SPDX-License-Identifier: MIT
//
// Merge: carries out one MergeStep, wherever the volumes are open: in the VM's QEMU or in a storage daemon. It begins by
// looking at what is, so that it can be run again after a crash at any point, and ends when the headers, and QEMU's block
// graph, say that it is done. The operation owns it; it changes no record but the marks of volumes, and removes no file.
//
// A commit writes into a volume that means something to somebody. That volume is marked illegal, on disk, before the first
// byte; from then on it can only be merged again, and what stands on it is right at every moment. A stream and all that
// is done before a commit leave everything as it was when they are broken off.
//
// The active commit of a running guest's disk has a moment in which the guest passes from the upper volume to the lower
// one; the upper one is marked illegal before. Which of them the guest has written to last is told by the block graph while
// QEMU lives; by the last status of the job when QEMU dies in that moment; and when the daemon dies with it, by the
// contents of both (see settle_switch()).
#pragma once

#include "storage/merges/merge_room.h"
#include "storage/merges/merge_step.h"
#include "storage/qemu/block_job.h"
#include "storage/qemu/workplace.h"

namespace volchain::storage {

class Merge {
  public:
    Merge(Engine& engine, JobPtr job, MergeStep step)
        : engine_(engine), job_(std::move(job)), step_(std::move(step)) {}

    /// Steps of the job: copy, bitmaps, switch. `done_before`, `total`: bytes of the whole operation, for progress.
    async::Task<> run(std::uint64_t done_before, std::uint64_t total);

    /// Whether something was written to the lower volume, so that its own content is lost.
    [[nodiscard]] bool damaged() const;
    /// The disk's active volume changed hands: it can only be finished.
    [[nodiscard]] bool switched() const noexcept { return switched_; }
    /// It was given up because the guest writes faster than its data can be written down; the guest's chain is as before.
    [[nodiscard]] bool outrun() const noexcept { return outrun_; }

  private:
    [[nodiscard]] const Catalog& catalog() const noexcept { return engine_.catalog(); }
    [[nodiscard]] std::string name(const Uuid& volume) const {
        return catalog().describe({ObjectKind::volume, volume});
    }
    [[nodiscard]] std::string path(const Uuid& volume) const {
        return catalog().path(catalog().volume(volume));
    }
    [[nodiscard]] bool is_active() const { return catalog().disk(step_.disk).active == step_.upper; }
    /// What is written to.
    [[nodiscard]] Uuid target() const { return step_.kind == MergeKind::commit ? step_.lower : step_.upper; }
    [[nodiscard]] std::string job_id() const;
    [[nodiscard]] async::Deadline soon() const { return async::after(engine_.settings().command_timeout); }

    [[nodiscard]] bool done() const;
    [[nodiscard]] bool switching() const;
    [[nodiscard]] Uuid child_of_upper() const;
    async::Task<> look_again();
    async::Task<> find_place();
    void note_nodes();
    async::Task<bool> no_bitmaps();
    async::Task<> copy();
    async::Task<> work(BlockJob& block_job);
    async::Task<> check_room();
    async::Task<> check_bitmaps();
    async::Task<> mark(Uuid volume, VolumeMark as);
    async::Task<> start(BlockJob& block_job);
    [[nodiscard]] Json commit_arguments() const;
    [[nodiscard]] Json stream_arguments() const;
    async::Task<> unite_bitmaps();
    async::Task<> finish_passive(BlockJob& block_job);
    async::Task<> finish_active(BlockJob& block_job);
    async::Task<> complete(BlockJob& block_job);
    async::Task<> judge_switch(BlockJob& block_job, std::exception_ptr failure);
    async::Task<> settle_switch();
    async::Task<> settle_live();
    async::Task<> settle_by_contents();
    async::Task<> turn_others();
    async::Task<> look_for_nodes(std::shared_ptr<qmp::Session> session);
    async::Task<> delete_nodes();

    Engine& engine_;
    JobPtr job_;
    MergeStep step_;
    std::shared_ptr<Workplace> place_;
    Uuid
        child_;  ///< of a commit's upper volume: the one that is open together with it; nil where it is the top
    std::uint64_t done_before_ = 0;
    std::uint64_t total_ = 0;
    bool finished_ = false;  ///< the job ended well here: where nothing else tells
    bool switched_ = false;
    bool outrun_ = false;
    std::vector<std::string>
        superfluous_;  ///< nodes that a running QEMU has of what is to go, if that is known
};

/// The name of `lower` as it stands in the header of a volume at `upper`: relative where both are in one pool.
[[nodiscard]] std::string backing_name(const Catalog& catalog, const Uuid& upper, const Uuid& lower);

}  // namespace volchain::storage
