// SPDX-License-Identifier: MIT
//
// Mending: does what a finding's remedy says (finding.h), each after another look at whether that is still right: the
// findings were made some time before. The check owns it; the disk and its VM are locked. What is done stays done, and
// what a crash breaks off is found again by the next check.
#pragma once

#include "storage/checks/disk_view.h"
#include "storage/checks/finding.h"

namespace volchain::storage {

class Mending {
  public:
    /// `view`: as the findings were made from.
    Mending(Engine& engine, DiskView view) : engine_(engine), view_(std::move(view)) {}

    /// Throws what stood against it.
    async::Task<> mend(Finding finding);

  private:
    [[nodiscard]] const Catalog& catalog() const noexcept { return engine_.catalog(); }
    [[nodiscard]] Uuid vm() const { return catalog().disk(view_.disk).vm; }
    [[nodiscard]] async::Deadline soon() const { return async::after(engine_.settings().command_timeout); }

    async::Task<> commit(Changes changes);
    async::Task<> remove_bitmap(Uuid volume, std::string bitmap);
    async::Task<> remove_bitmap_offline(Uuid volume, std::string bitmap);
    async::Task<> remove_bitmap_in(std::shared_ptr<qmp::Session> session, std::string path,
                                   std::string bitmap);
    async::Task<> drop_volume(Uuid volume);
    async::Task<> forget_volume(Uuid volume);
    async::Task<> clear_mark(Uuid volume);
    async::Task<> forget_former();
    async::Task<> fail_snapshot(Uuid snapshot);
    async::Task<> delete_node(std::string node);

    Engine& engine_;
    DiskView view_;
};

}  // namespace volchain::storage
