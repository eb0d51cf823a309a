// SPDX-License-Identifier: MIT
//
// Presence: whether a disk is to be worked on in its VM's QEMU or offline, asked before an operation and, after one was
// broken off, until there is an answer.
#pragma once

#include "storage/engine.h"

namespace volchain::storage {

/// As Engine::ready_to_work(); a nil VM runs nowhere.
[[nodiscard]] async::Task<bool> ready_to_work(Engine& engine, Uuid vm);

/// For an operation that cannot end before it is known whether the VM runs: waits until its QEMU has told its disks anew,
/// or is gone. Nil: no VM.
[[nodiscard]] async::Task<bool> runs_or_is_gone(Engine& engine, Uuid vm);

/// Busy where the disk is not that VM's any more, or not nobody's: it was attached or detached while the VM was looked at.
void refuse_moved(const Catalog& catalog, const Uuid& disk, const Uuid& vm);

/// The VM's QEMU must have the disk as it is recorded; NotRunning where it does not.
[[nodiscard]] LiveDisk& live_disk(Engine& engine, const Uuid& disk);

/// A disk and its VM, where it has one: what operations on it lock.
[[nodiscard]] std::vector<ObjectId> disk_and_vm(const Uuid& disk, const Uuid& vm);

}  // namespace volchain::storage
