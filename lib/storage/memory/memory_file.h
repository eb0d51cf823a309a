// SPDX-License-Identifier: MIT
//
// The file with a snapshot's memory: a migration stream of QEMU's, as it writes it and reads it back (qmp/migration.h); or
// what libvirt has made of one ("virsh save", external snapshots), which is a header and the same stream behind it.
//
// It is as large as what was not zero in the guest's RAM: QEMU writes a page of zeroes as nine bytes. Nothing smaller is to
// be had while the guest runs: "compress" and "xbzrle" do not go together with "background-snapshot", and "mapped-ram" (9.0)
// takes as much and is for machines that stand still.
//
// Blocking: for a worker thread.
#pragma once

#include <cstdint>
#include <string>

#include "base/unique_fd.h"

namespace volchain::storage {

/// What the stream of a machine with so much RAM takes at most: each page with its head, the devices, video memory.
[[nodiscard]] std::uint64_t memory_room(std::uint64_t ram_bytes) noexcept;

/// The file, opened beneath the pool for writing, with so many bytes reserved for it where its file system can do that:
/// nobody else takes them meanwhile. NoSpace. flush_memory() gives back what was not used.
[[nodiscard]] UniqueFd open_memory_to_write(const std::string& pool, const std::string& file,
                                            std::uint64_t room);

/// The file, opened beneath the pool, and positioned where the stream begins: whoever reads on from there reads that.
struct MemoryStream {
    UniqueFd fd;
    std::uint64_t bytes = 0;  ///< from there to the end
};
/// NotFound; CorruptImage where it is no such file, or one that was not written to its end; Unsupported where libvirt has
/// compressed it.
[[nodiscard]] MemoryStream open_memory(const std::string& pool, const std::string& file);

/// UnsafeImage where it is no regular file.
[[nodiscard]] std::uint64_t file_bytes(const std::string& pool, const std::string& file);

/// Of one that is written: makes its content durable, and its entry in the directory; its size.
[[nodiscard]] std::uint64_t flush_memory(const std::string& pool, const std::string& file);

/// Whether the process has that file open.
[[nodiscard]] bool has_open(int pid, const std::string& pool, const std::string& file);

}  // namespace volchain::storage
