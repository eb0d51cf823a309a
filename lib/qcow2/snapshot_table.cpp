// SPDX-License-Identifier: MIT
//
// Where this is stricter than QEMU 7.2, which looks at most of this only in "qemu-img check" or when a
// snapshot is used: L1 tables lie within the file and keep to QEMU's limit, ids and names hold no NUL,
// and version 3 images have the extra data that the specification asks for.
#include "qcow2/snapshot_table.h"

#include <algorithm>

#include "base/error.h"
#include "base/text.h"
#include "qcow2/cursor.h"
#include "qcow2/limits.h"
#include "qcow2/region.h"

namespace volchain::qcow2 {
namespace {

std::string read_name(Cursor& cursor, std::uint16_t bytes, std::string_view what) {
    std::string name = cursor.text(bytes);
    if (name.find('\0') != std::string::npos)
        throw Error(ErrorCode::corrupt_image, "the snapshot {} {} has a NUL in it", what, quote(name));
    return name;
}

/// Specification, "Snapshots": bytes 40 to 47 are the VM state's size, 48 to 55 the disk's size. More is
/// for future extensions and passed over.
void read_extra_data(Cursor& cursor, const Header& header, std::uint32_t bytes, Snapshot& snapshot) {
    if (bytes > max_snapshot_extra_bytes)
        throw Error(ErrorCode::corrupt_image, "a snapshot has {} bytes of extra data, more than {}", bytes,
                    max_snapshot_extra_bytes);
    if (header.version >= 3 && bytes < 16)
        throw Error(ErrorCode::corrupt_image, "a snapshot has {} bytes of extra data, fewer than 16", bytes);
    const std::uint64_t end = cursor.offset() + bytes;
    if (bytes >= 8) snapshot.vm_state_bytes = cursor.number<std::uint64_t>();
    if (bytes >= 16) snapshot.disk_size = cursor.number<std::uint64_t>();
    cursor.skip(end - cursor.offset());
}

Snapshot read_snapshot(Cursor& cursor, const Header& header, std::uint64_t file_size) {
    Snapshot snapshot;
    snapshot.l1_table.offset = cursor.number<std::uint64_t>();
    snapshot.l1_table.bytes = cursor.number<std::uint32_t>() * table_entry_bytes;
    const auto id_bytes = cursor.number<std::uint16_t>();
    const auto name_bytes = cursor.number<std::uint16_t>();
    snapshot.created_sec = cursor.number<std::uint32_t>();
    snapshot.created_nsec = cursor.number<std::uint32_t>();
    snapshot.vm_clock_nsec = cursor.number<std::uint64_t>();
    snapshot.vm_state_bytes = cursor.number<std::uint32_t>();
    snapshot.disk_size = header.virtual_size;
    const auto extra_bytes = cursor.number<std::uint32_t>();
    read_extra_data(cursor, header, extra_bytes, snapshot);
    snapshot.id = read_name(cursor, id_bytes, "id");
    snapshot.name = read_name(cursor, name_bytes, "name");
    cursor.skip_padding();

    if (snapshot.l1_table.bytes > max_l1_bytes)
        throw Error(ErrorCode::corrupt_image, "the L1 table of snapshot {} has {} entries, more than {}",
                    quote(snapshot.name), snapshot.l1_table.bytes / table_entry_bytes,
                    max_l1_bytes / table_entry_bytes);
    check_region({"L1 table of a snapshot", snapshot.l1_table}, header.cluster_size(), file_size);
    return snapshot;
}

}  // namespace

std::vector<Snapshot> read_snapshots(const ImageSource& source, const Header& header) {
    if (header.snapshot_count == 0) return {};
    const std::uint64_t begin = header.snapshot_table_offset;
    const std::uint64_t file_size = source.size();
    // Nothing says how long the table is, so it may go on to the end of the file.
    const std::uint64_t room = file_size - std::min(file_size, begin);
    Cursor cursor(source, begin, begin + room, "file");
    std::vector<Snapshot> snapshots;
    snapshots.reserve(header.snapshot_count);
    for (std::uint32_t i = 0; i < header.snapshot_count; ++i) {
        snapshots.push_back(read_snapshot(cursor, header, file_size));
        if (cursor.offset() - begin > max_snapshot_table_bytes)
            throw Error(ErrorCode::unsupported, "the table of {} snapshots has more than {} bytes",
                        header.snapshot_count, max_snapshot_table_bytes);
    }
    return snapshots;
}

}  // namespace volchain::qcow2
