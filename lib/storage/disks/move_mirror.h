// SPDX-License-Identifier: MIT
//
// MoveMirror: the part of a move that is done in the QEMU of the running VM: the copy of the disk's active volume is made, kept the
// same by a mirror while the guest writes on, and the guest passes over to it. MoveDisk (move_disk.h) owns it, and decides what
// is done when; nothing is recorded here.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "storage/disks/move_plan.h"
#include "storage/engine.h"
#include "storage/qemu/block_job.h"
#include "storage/vms/live_chain.h"

namespace volchain::storage {

class MoveMirror {
  public:
    /// `plan` is the owner's.
    MoveMirror(Engine& engine, JobPtr job, const Uuid& disk, const MovePlan& plan)
        : engine_(engine), job_(std::move(job)), disk_(disk), plan_(plan) {}

    /// The empty image that the guest will write to.
    async::Task<> make_target();
    async::Task<> add_nodes();
    /// Until both are the same. `done` of `total`: what was copied before.
    async::Task<> run(std::uint64_t done, std::uint64_t total);
    async::Task<> carry_bitmaps();
    /// The guest goes over, and what it wrote to the copy is on the medium.
    async::Task<> pass();
    /// The mirror ends, whatever became of it.
    async::Task<> break_off();
    /// As in Workplace: a mirror does not flush what it wrote.
    async::Task<> flush();

    /// Of a mirror that nobody knows the end of: ends it, and finds out where the guest is.
    async::Task<bool> has_passed();
    async::Task<> remove_new_nodes();
    /// Those of the old places: by their files, as QEMU may have made names of its own.
    async::Task<> remove_old_nodes();

  private:
    [[nodiscard]] const Catalog& catalog() const noexcept { return engine_.catalog(); }
    [[nodiscard]] Uuid active() const { return catalog().disk(disk_).active; }
    [[nodiscard]] bool stands_alone() const { return plan_.stands_alone(catalog(), active()); }
    [[nodiscard]] std::shared_ptr<qmp::Session> session() const { return engine_.vm(plan_.vm).session(); }
    [[nodiscard]] async::Deadline soon() const { return async::after(engine_.settings().command_timeout); }
    [[nodiscard]] std::unique_ptr<BlockJob> new_block_job() const;
    [[nodiscard]] std::vector<PlannedLayer> new_layers() const;
    void add_bitmap(const qmp::DirtyBitmap& bitmap, const std::string& source, Json& actions) const;

    Engine& engine_;
    JobPtr job_;
    Uuid disk_;
    const MovePlan& plan_;
    std::unique_ptr<BlockJob> block_job_;
};

}  // namespace volchain::storage
