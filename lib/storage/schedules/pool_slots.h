// SPDX-License-Identifier: MIT
//
// PoolSlots: how many things at a time go on in a pool by themselves. Who comes late waits; and they can be kept apart, so
// that a hundred VMs whose snapshots are due at midnight do not all stop for the disk at once. The Scheduler
// owns it.
#pragma once

#include <map>
#include <set>
#include <utility>

#include "async/condition.h"
#include "base/uuid.h"

namespace volchain::storage {

class PoolSlots {
  public:
    /// A turn on some pools, until it goes out of scope.
    class [[nodiscard]] Slot {
      public:
        Slot(PoolSlots& slots, std::set<Uuid> pools) : slots_(&slots), pools_(std::move(pools)) {}
        Slot(Slot&& other) noexcept
            : slots_(std::exchange(other.slots_, nullptr)), pools_(std::move(other.pools_)) {}
        Slot& operator=(Slot&&) = delete;
        ~Slot() {
            if (slots_ != nullptr) slots_->release(pools_);
        }

      private:
        PoolSlots* slots_;
        std::set<Uuid> pools_;
    };

    /// `apart`: so long nothing else begins on a pool after something has.
    PoolSlots(unsigned limit, async::Clock::duration apart) : limit_(limit), apart_(apart) {}
    PoolSlots(const PoolSlots&) = delete;
    PoolSlots& operator=(const PoolSlots&) = delete;

    /// When there is room in all of them. Timeout at the deadline.
    async::Task<Slot> take(std::set<Uuid> pools, async::Deadline deadline);

  private:
    struct Use {
        unsigned running = 0;
        async::Deadline next_start{};
    };
    void release(const std::set<Uuid>& pools) noexcept;

    unsigned limit_;
    async::Clock::duration apart_;
    std::map<Uuid, Use> pools_;
    async::Condition freed_;
};

}  // namespace volchain::storage
