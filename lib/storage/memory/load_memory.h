// SPDX-License-Identifier: MIT
//
// The memory of a snapshot comes back: a QEMU that was started with LaunchArguments ("-incoming defer") is given the file
// when it shows up, and its guest goes on from there, once.
//
// Steps: record, check, load, start. That the memory is used up is on disk before the guest runs: whoever starts the VM
// again boots it. Until then nothing has changed but in that QEMU: where it cannot read the memory it ends, and the VM can be
// started again for another try. A restarted daemon goes on with a QEMU that still waits, reads, or stands still after it.
//
// A guest that was paused at the snapshot is left standing still; so is that of a QEMU that was started with "-S", whose
// manager lets it run.
#pragma once

#include "storage/engine.h"

namespace volchain::storage {

/// After a VM's QEMU was connected to: begins to load the memory that it waits for. Where it runs without it, that is due no
/// more. Busy where somebody works on the VM or one of its disks.
async::Task<> see_to_memory(Engine& engine, Uuid vm);

/// The VM boots at its next start, or has: with the VM's lock where that is free, else not at all, as it is looked at
/// again.
async::Task<> forget_due_memory(Engine& engine, Uuid vm);

/// Gives up the memory that is due, as a user wishes. InvalidArgument where none is.
async::Task<> discard_due_memory(Engine& engine, Uuid vm);

async::Task<> recover_load_memory(Engine& engine, JobPtr job);

}  // namespace volchain::storage
