// SPDX-License-Identifier: MIT
#include "storage/schedules/pool_slots.h"

#include <algorithm>

#include "async/deadline.h"

namespace volchain::storage {

async::Task<PoolSlots::Slot> PoolSlots::take(std::set<Uuid> pools, async::Deadline deadline) {
    while (true) {
        bool full = false;
        async::Deadline start{};
        for (const Uuid& pool : pools) {
            full = full || pools_[pool].running >= limit_;
            start = std::max(start, pools_[pool].next_start);
        }
        if (full)
            co_await freed_.wait(deadline, "others that work on the same pool");
        else if (start > async::Clock::now())
            co_await async::sleep_until(start);
        else
            break;
    }
    for (const Uuid& pool : pools) {
        ++pools_[pool].running;
        pools_[pool].next_start = async::after(apart_);
    }
    co_return Slot(*this, std::move(pools));
}

void PoolSlots::release(const std::set<Uuid>& pools) noexcept {
    for (const Uuid& pool : pools) --pools_[pool].running;
    freed_.notify();
}

}  // namespace volchain::storage
