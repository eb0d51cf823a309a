// SPDX-License-Identifier: MIT
//
// The work on a RemovalOrder (removal_order.h), from wherever it is: for each disk one MergeStep after the other, each
// carried out by Merge (merge.h), settled in the records, its files unlinked. It ends the job. What is to be done is
// decided, and the locks are held, by whoever calls it (remove_volumes.h).
#pragma once

#include "storage/merges/removal_order.h"

namespace volchain::storage {

async::Task<> carry_out(Engine& engine, JobPtr job, RemovalOrder order);

}  // namespace volchain::storage
